"""An agent in one loop, on any model: it calls tools until it has an answer, and lets the model mend its bad calls.

python examples/agent.py llamacpp "What is 12.5 times 8?"
python examples/agent.py openai/gpt-4o "How many days lie between 1969-07-20 and 2000-01-01?"
"""

import sys
from datetime import date

from modelport import InvalidToolCall, Model, load_model


def multiply(a: float, b: float) -> float:
    """Multiplies two numbers."""
    return a * b


def days_between(first: str, last: str) -> int:
    """Counts the days from one date to another, both as YYYY-MM-DD."""
    return (date.fromisoformat(last) - date.fromisoformat(first)).days


def run(model: Model, task: str, tools: list, steps: int = 8) -> str:
    by_name = {tool.__name__: tool for tool in tools}
    messages = [{"role": "user", "content": task}]
    for step in range(steps):
        try:
            # The first turn must look at a tool; after that the model decides.
            message = model(messages, tools=tools, tool_choice="auto" if step else "required", temperature=0)
        except InvalidToolCall as error:
            messages.append({"role": "user", "content": f"{error} Call a tool in the right form, or answer."})
            continue
        messages.append(message)
        if not message.tool_calls:
            return message.text
        for call in message.tool_calls:
            try:
                result = by_name[call.function.name](**call.function.arguments)
            except Exception as error:  # whatever a tool raises, the model is told
                result = f"{type(error).__name__}: {error}"
            print(f"{call.function.name}({call.function.arguments}) = {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": str(result)})
    return "no answer in so many steps"


if __name__ == "__main__":
    with load_model(sys.argv[1]) as model:
        print(run(model, sys.argv[2], [multiply, days_between]))
