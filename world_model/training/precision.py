"""bfloat16 where it pays: inside the convolutions and attention layers, nowhere else.

Autocast over a whole loss would also round what must not be rounded: the distances to the codes, the points at which
maps are sampled, poses, and losses. So a task names its heavy modules, and only these run in bfloat16; what goes in and
comes out of them is float32, as are weights, gradients and optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from world_model.core.errors import OptionError

Precision = Literal["auto", "float32", "bfloat16"]


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 on CUDA devices that have it, else float32.

    Raises:
        OptionError: bfloat16 on a CUDA device without it.
    """
    has_it = device.type != "cuda" or torch.cuda.is_bf16_supported()
    if precision == "bfloat16" and not has_it:
        raise OptionError(
            f"precision bfloat16 on {torch.cuda.get_device_name(device)}, which does not have it",
            "auto or float32",
            "leave --precision out",
        )
    half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda" and has_it)
    return torch.bfloat16 if half else torch.float32


def run_in_bfloat16(modules: Iterable[nn.Module], device_type: str) -> None:
    """Let the forward of these modules compute in bfloat16 and return float32."""
    for module in modules:
        module.forward = _inside_autocast(module.forward, device_type)


def _inside_autocast(forward: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, torch.bfloat16):
            out = forward(*args, **kwargs)
        if isinstance(out, Tensor):
            return out.float()
        return tuple(part.float() for part in out)

    return call
