"""An agent in one loop, on any model: it calls tools until it has an answer, and the model corrects its invalid calls.

python examples/agent.py llamacpp "What is 12.5 times 8?"
"""

import sys

from modelport import InvalidToolCall, Model, load_model


def multiply(a: float, b: float) -> float:
    """Multiplies two numbers."""
    return a * b


def run(model: Model, task: str, tools: list, steps: int = 8) -> str:
    by_name = {tool.__name__: tool for tool in tools}
    messages = [{"role": "user", "content": task}]
    for step in range(steps):
        try:  # The first step must call a tool; after that the model decides.
            message = model(messages, tools=tools, tool_choice="auto" if step else "required", temperature=0)
        except InvalidToolCall as error:
            messages.append({"role": "user", "content": f"{error} Call a tool in the right form, or answer."})
            continue
        messages.append(message)
        for call in message.tool_calls or ():
            try:
                result = by_name[call.function.name](**call.function.arguments)
            except Exception as error:  # A tool may raise anything; the error becomes its result.
                result = f"{type(error).__name__}: {error}"
            print(f"{call.function.name}({call.function.arguments}) = {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": str(result)})
        if not message.tool_calls:
            return message.text
    return f"no answer after {steps} steps"


if __name__ == "__main__":
    spec, task = sys.argv[1:] if len(sys.argv) == 3 else sys.exit(__doc__)
    print(run(load_model(spec), task, [multiply]))
