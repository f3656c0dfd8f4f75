"""A GPU that is not there: tensors that say they lie elsewhere, compute on the CPU, and refuse what a GPU refuses.

    with pretend_gpu() as gpu:
        x = torch.zeros(3, device=gpu)
        x + torch.ones(3)  # DeviceMixed
        x.numpy()          # DeviceMixed

Every operation passes through `_run`, which takes the devices apart, so that code which mixes them fails here as it
would on a GPU, and values come out as on the CPU. Its name is "meta", the one device besides the CPU that every build
of torch can guard; what depends on the name "cuda" (bfloat16, page-locked memory, NCCL), kernels, rounding, memory and
speed are not pretended. Modes are per thread: work that other threads do on the device is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class DeviceMixed(RuntimeError):
    """Something that fails on a GPU."""


class OnGpu(Tensor):
    """A tensor of the pretended GPU; its values lie on the CPU, in ``held``."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        wrapped: OnGpu = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=GPU
        )
        wrapped.held = held
        return wrapped

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.held!r})"


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU; the result lies where the operands lie, or where ``device=`` says."""
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    ours = [t for t in tensors if isinstance(t, OnGpu)]
    asked = kwargs.get("device")
    on_gpu = bool(ours) if asked is None else torch.device(asked) == GPU
    if ours and func not in COPIES:
        # Numbers may come from the CPU, and so may indices.
        strangers = [t for t in tensors if not isinstance(t, OnGpu) and t.dim() > 0]
        if func in INDEXED:
            strangers = [t for t in strangers if t is args[0] or (len(args) > 2 and t is args[2])]
        if strangers:
            raise DeviceMixed(f"{func} of tensors on the GPU and on the CPU, {[tuple(t.shape) for t in tensors]}")
    generator = kwargs.get("generator")
    if generator is not None and on_gpu:
        raise DeviceMixed(f"{func} with a generator of the CPU for a tensor on the GPU")
    if asked is not None:
        kwargs = {**kwargs, "device": CPU}
    args, kwargs = tree_map(lambda t: t.held if isinstance(t, OnGpu) else t, (args, kwargs))
    out = func(*args, **kwargs)
    if not on_gpu:
        return out
    # What works in place gives back its operand, not another wrapper of it.
    known = {id(t.held): t for t in ours}
    return tree_map(lambda t: known.get(id(t), t) if id(t) in known or not isinstance(t, Tensor) else OnGpu(t), out)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch does with values before any operation is dispatched."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            device = kwargs.pop("device", None)
            if func is Tensor.new_tensor:
                kwargs.setdefault("dtype", args[0].dtype)
                device, args = device or args[0].device, args[1:]
            made = args[0] if isinstance(args[0], Tensor) else _tensor(*args, **kwargs)
            return made.to(device=device, dtype=kwargs.get("dtype"))
        if args and isinstance(args[0], OnGpu):
            if func is Tensor.tolist:
                return args[0].held.tolist()
            if func in (Tensor.numpy, Tensor.__array__):
                raise DeviceMixed("a tensor on the GPU as a numpy array")
            if func in (Tensor.__getitem__, Tensor.__setitem__):
                args = (args[0], _index(args[1]), *args[2:])
        return func(*args, **kwargs)


def _tensor(*args: Any, **kwargs: Any) -> Tensor:
    with torch._C.DisableTorchFunction():
        return torch.tensor(*args, **kwargs)


def _index(index: Any) -> Any:
    """Lists as tensors: torch would make them on the device itself, where values of "meta" get lost."""
    if isinstance(index, tuple):
        return tuple(_index(i) for i in index)
    return _tensor(index) if isinstance(index, list) else index


@contextmanager
def pretend_gpu() -> Iterator[torch.device]:
    """A device for `Module.to` and ``device=``, as long as the context lasts."""
    inference = torch._C._InferenceMode
    # Wrappers cannot be inference tensors.
    torch._C._InferenceMode = lambda mode: torch.no_grad()  # type: ignore[misc,assignment]
    try:
        with _Operations(), _Functions():
            yield GPU
    finally:
        torch._C._InferenceMode = inference  # type: ignore[misc]
