"""An agent of the smolagents package on a modelport model, which is passed to the agent as it is.

pip install 'modelport[llamacpp]' smolagents
python examples/smolagents_agent.py llamacpp
python examples/smolagents_agent.py openai/gpt-4o
"""

import sys

from smolagents import CodeAgent, tool

from modelport import Lark, load_model

#: The format of a step of a code agent. The default local model is far too small to write it by itself, but constrained
#: decoding makes every model write it. Leave the grammar out for a larger model.
STEP = Lark(
    r'start: "Thought: " /[a-zA-Z ]{3,30}/ "\n<code>\nfinal_answer(get_weather(\"" /[A-Z][a-z]{2,12}/ "\"))\n</code>"'
)


@tool
def get_weather(city: str) -> str:
    """Tells the weather of a city.

    Args:
        city: The city's name.
    """
    return f"sunny in {city}"


spec = sys.argv[1]
small = {"context_length": 8192, "grammar": STEP} if spec.startswith("llamacpp") else {}
with load_model(spec, temperature=0, **small) as model:
    agent = CodeAgent(tools=[get_weather], model=model, max_steps=3, verbosity_level=0)
    print(agent.run("What is the weather in Paris?"))
