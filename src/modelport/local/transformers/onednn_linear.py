"""A faster linear layer for CPUs.

For a single token, torch's own linear layer reads the weights at a third of the speed that the memory allows. torch
also contains the oneDNN library, whose linear operator is faster. For one token of a 135M model in f32, all linear
layers take 16 ms with oneDNN and 27 ms without it; for 2 to 512 tokens at once, oneDNN takes half as long (2 cores;
`benchmarks/concurrency.py` shows the effect). The operator is a private function of torch, so torch's own layer is used
if the operator is missing or computes wrong results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


def use_onednn(model: torch.nn.Module) -> None:
    """Run a model's plain f32 linear layers on the CPU with oneDNN's operator. Training still uses torch's layers."""
    operator = _operator()
    if operator is None:
        return
    for module in model.modules():
        if type(module) is not torch.nn.Linear or "forward" in vars(module):
            continue
        if module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.forward = _onednn_forward(module, operator)


def _onednn_forward(module: torch.nn.Linear, operator: Any) -> Any:
    def forward(x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() or x.dtype != torch.float32 or x.numel() == 0:
            return functional.linear(x, module.weight, module.bias)
        return operator(x, module.weight, module.bias, "none", [], "")

    return forward


def _operator() -> Any:
    """Return oneDNN's linear operator if this build of torch has it and its results are right, else `None`."""
    try:
        operator = torch.ops.mkldnn._linear_pointwise
        x, weight = torch.randn(3, 8), torch.randn(5, 8)
        close = torch.allclose(operator(x, weight, None, "none", [], ""), functional.linear(x, weight), atol=1e-4)
    except Exception:  # Other builds of torch raise exceptions of any kind.
        return None
    return operator if close else None
