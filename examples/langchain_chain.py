"""A LangChain chain on any model: invoked, streamed and batched.

pip install 'modelport[llamacpp,langchain]'
python examples/langchain_chain.py llamacpp
python examples/langchain_chain.py openai/gpt-4o
"""

import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from modelport import load_model
from modelport.integrations.langchain import ChatModelport

prompt = ChatPromptTemplate([("user", "What is the capital of {country}? Answer in one sentence.")])

with load_model(sys.argv[1], temperature=0, max_tokens=40) as model:
    chain = prompt | ChatModelport(model=model) | StrOutputParser()
    print(chain.invoke({"country": "France"}))
    for piece in chain.stream({"country": "Italy"}):
        print(piece, end="", flush=True)
    print()
    print(*chain.batch([{"country": "Spain"}, {"country": "Japan"}]), sep="\n")
