"""One program for every backend: only the argument that names the model differs.

    python examples/switch.py llamacpp
    python examples/switch.py transformers/HuggingFaceTB/SmolLM2-135M-Instruct
    python examples/switch.py mlx/mlx-community/SmolLM2-135M-Instruct
    python examples/switch.py vllm/HuggingFaceTB/SmolLM2-135M-Instruct
    python examples/switch.py openai/gpt-4o
    python examples/switch.py openai/qwen3 '{"api_base": "http://localhost:8000/v1", "api_key": "none"}'
    python examples/switch.py azure/my-deployment
    python examples/switch.py bedrock/us.amazon.nova-pro-v1:0
    python examples/switch.py huggingface/meta-llama/Llama-3.3-70B-Instruct
    python examples/switch.py litellm/groq/llama-3.3-70b-versatile
    python examples/switch.py litellm-router/llama '{"model_list": [{"model_name": "llama", "litellm_params":
        {"model": "groq/llama-3.3-70b-versatile"}}]}'

Keys, regions and addresses come from the usual environment variables of each service.
"""

import asyncio
import json
import sys

from modelport import load_model

if len(sys.argv) < 2:
    sys.exit(__doc__)
model = load_model(sys.argv[1], **json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}"))

messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]

message = model(messages, temperature=0)
print("complete: ", message)

print("streamed:  ", end="")
for delta in model.generate_stream(messages, temperature=0):
    print(delta.content or "", end="", flush=True)
print()

message = model(messages, temperature=0, stop_sequences=["Paris"])
print("stopped:  ", message, f"[{message.finish_reason}]")

history = [*messages, message, {"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
message = asyncio.run(model.agenerate(history, temperature=0, max_tokens=3))
print("truncated:", message.finish_reason)
model.close()
