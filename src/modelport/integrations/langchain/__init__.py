"""`ChatModelport`: any model of modelport as a chat model of LangChain.

It needs `modelport[langchain]`, which installs `langchain-core`. A call converts LangChain's messages to those of
modelport, calls the model, and converts the response back. `chat_model` has the class, `messages` and `responses`
convert, `structured_output` implements `with_structured_output`, and `errors` makes errors that both libraries know.

Examples:
    >>> from modelport.integrations.langchain import ChatModelport
    >>> chat = ChatModelport(model="openai/gpt-4o", temperature=0)
    >>> chat.invoke("What is the capital of France?").text
"""

from importlib.util import find_spec

from modelport.errors import MissingDependency

if find_spec("langchain_core") is None:
    raise MissingDependency("langchain_core", "langchain")

from modelport.integrations.langchain.chat_model import ChatModelport as ChatModelport

__all__ = ["ChatModelport"]
