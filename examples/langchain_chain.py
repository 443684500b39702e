"""A LangChain chain on any model: a LangChain chat model in thirty lines, and a chain that streams through it.

pip install 'modelport[llamacpp]' langchain-core
python examples/langchain_chain.py llamacpp
python examples/langchain_chain.py openai/gpt-4o
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, convert_to_openai_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from modelport import ChatMessage, Model, load_model


class ChatModelport(BaseChatModel):
    """A LangChain chat model on a modelport model; `bind(…)` takes the options of a call."""

    model: Any

    @property
    def _llm_type(self) -> str:
        return "modelport"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any) -> ChatResult:
        message = self.model(convert_to_openai_messages(messages), stop, **options)
        return ChatResult(generations=[ChatGeneration(message=to_langchain(message))])

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any
    ) -> Iterator[ChatGenerationChunk]:
        with self.model.generate_stream(convert_to_openai_messages(messages), stop, **options) as stream:
            for delta in stream:
                calls = [
                    {"name": c.function.name, "args": c.function.arguments, "id": c.id, "index": c.index}
                    for c in delta.tool_calls or ()
                    if c.function
                ]
                yield ChatGenerationChunk(message=AIMessageChunk(delta.content or "", tool_call_chunks=calls))

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **options: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=list(tools), tool_choice=tool_choice, **options)


def to_langchain(message: ChatMessage) -> AIMessage:
    calls = [{"name": c.function.name, "args": c.function.arguments, "id": c.id} for c in message.tool_calls or ()]
    return AIMessage(message.text, tool_calls=calls)


def chain(model: Model) -> Runnable[dict[str, str], str]:
    prompt = ChatPromptTemplate([("user", "What is the capital of {country}? Answer in one sentence.")])
    return prompt | ChatModelport(model=model) | StrOutputParser()


if __name__ == "__main__":
    with load_model(sys.argv[1], temperature=0, max_tokens=40) as model:
        print(chain(model).invoke({"country": "France"}))
        for piece in chain(model).stream({"country": "Italy"}):
            print(piece, end="", flush=True)
        print()
        print(*chain(model).batch([{"country": "Spain"}, {"country": "Japan"}]), sep="\n")
