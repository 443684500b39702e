"""A faster linear layer for CPUs.

torch's own reads the weights of a decoding step at a third of the memory's speed. oneDNN's, which torch carries for its
compiler, takes 16 ms where torch's takes 27 for the linears of one token of a 135M model in f32, and half the time at
any number of tokens up to 512 (2 cores; `benchmarks/concurrency.py` shows what comes of it). The operator is private:
where it is missing, or refuses, torch's own does the work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


def speed_up(model: torch.nn.Module) -> None:
    """Has the plain f32 linear layers of a model on the CPU run on oneDNN's operator. Training is left as it was."""
    operator = _operator()
    if operator is None:
        return
    for module in model.modules():
        if type(module) is not torch.nn.Linear or "forward" in vars(module):
            continue
        if module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.forward = _forward(module, operator)


def slow_down(model: torch.nn.Module) -> None:
    """Takes `speed_up` back."""
    for module in model.modules():
        if type(module) is torch.nn.Linear and getattr(vars(module).get("forward"), "sped_up", False):
            del module.forward


def _forward(module: torch.nn.Linear, operator: Any) -> Any:
    def forward(x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() or x.dtype != torch.float32 or x.numel() == 0:
            return functional.linear(x, module.weight, module.bias)
        return operator(x, module.weight, module.bias, "none", [], "")

    forward.sped_up = True  # type: ignore[attr-defined]
    return forward


def _operator() -> Any:
    try:
        operator = torch.ops.mkldnn._linear_pointwise
        x, weight = torch.randn(3, 8), torch.randn(5, 8)
        close = torch.allclose(operator(x, weight, None, "none", [], ""), functional.linear(x, weight), atol=1e-4)
    except Exception:  # Another build of torch: any kind of refusal.
        return None
    return operator if close else None
