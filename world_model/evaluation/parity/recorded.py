"""Inputs and outputs of inner modules, recorded while a model runs."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from world_model.core.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Call:
    """The first call of a module.

    Attributes:
        inputs: its positional tensor arguments.
        outputs: what it returned.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@contextmanager
def recorded(model: nn.Module, names: Set[str]) -> Iterator[dict[str, Call]]:
    """Record the first call of each of the named modules, until the block ends.

    Raises:
        DataError: the model has no such module.
    """
    modules, calls, handles = dict(model.named_modules()), dict[str, Call](), []
    if unknown := names - set(modules):
        raise DataError(f"outputs of unknown layers {sorted(unknown)[:3]}", "the published layer names", "")

    def keep(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if name not in calls:
            outputs = output if isinstance(output, tuple) else (output,)
            calls[name] = Call(inputs=tuple(x for x in inputs if isinstance(x, Tensor)), outputs=outputs)

    for name in names:
        handles.append(modules[name].register_forward_hook(partial(keep, name)))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
