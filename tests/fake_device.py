"""A second device type on any machine: PyTorch's `PrivateUse1`, computed by the CPU.

A tensor on the device `fake` refuses to meet one of the CPU in an operation, as a GPU's does, and computes what the CPU
would. `install` changes the process for good; call it in a process of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "fake"
aten = torch.ops.aten
_LIBRARY, _ATEN = (torch.library.Library(name, "IMPL") for name in ("_", "aten"))
LOWERED: set[tuple[str, torch.dtype]] = set()  # operations that autocast lowered, and to what
# Copies between devices are what moves tensors; nothing else may see two of them.
_COPIES = {aten.copy_.default, aten._to_copy.default, aten.set_.source_Tensor}


class FakeTensor(torch.Tensor):
    """A tensor on the fake device, around one of the CPU that holds its numbers."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> FakeTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = FakeTensor(self.raw.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("a checkpoint with tensors of the fake device")

    def tolist(self) -> Any:
        return self.raw.detach().tolist()

    def __repr__(self, **options: Any) -> str:
        return f"FakeTensor({self.raw!r})"


class FakeDevice(TorchDispatchMode):
    """Takes what makes tensors on the device or moves them there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def _on_fake(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operation on the CPU, after a look at where its tensors are."""
    tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
    fake = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
    here = [tensor for tensor in tensors if not isinstance(tensor, FakeTensor) and tensor.ndim]
    if fake and here and func not in _COPIES:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {NAME}:0 and cpu, in {func}")
    to_fake = bool(fake)
    if "device" in kwargs and kwargs["device"] is not None:
        to_fake = _on_fake(kwargs["device"])
        kwargs = kwargs | {"device": torch.device("cpu")}
    elif func is aten._to_copy.default:
        to_fake = isinstance(args[0], FakeTensor)
    if not fake and not to_fake:
        return func(*args, **kwargs)
    plain_args, plain_kwargs = tree_map(lambda v: v.raw if isinstance(v, FakeTensor) else v, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    own = {id(tensor.raw): tensor for tensor in fake}

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in own:  # in place
            return own[id(value)]
        if func is aten.copy_.default:  # into the CPU
            return args[0]
        return FakeTensor(value) if to_fake else value

    return tree_map(wrap, result)


class _Module:
    """What PyTorch asks of the module `torch.fake`."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, device: Any) -> None:
        pass

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def synchronize(self, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class _Generator(torch.Generator):
    """A generator, which Python cannot give a device of its own."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu" if _on_fake(device) else device)


def _kernel(name: str) -> Any:
    packet, _, overload = name.partition(".")
    func = getattr(getattr(aten, packet), overload or "default")
    return lambda *args, **kwargs: compute(func, args, kwargs)


def _lowering(name: str) -> Any:
    """An operation in the precision of autocast, as on devices that PyTorch has autocast for."""
    func = getattr(aten, name).default

    def lowered(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype(NAME)
        LOWERED.add((name, dtype))

        def lower(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, FakeTensor) and value.dtype == torch.float32 else value

        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return func(*tree_map(lower, args), **tree_map(lower, kwargs))

    return lowered


class _NoGrad(torch.no_grad):
    """`torch.inference_mode` in which wrapper tensors can be made."""

    def __new__(cls, mode: bool = True) -> _NoGrad:
        return super().__new__(cls)

    def __init__(self, mode: bool = True) -> None:
        super().__init__()


def install() -> None:
    """Makes the device known to PyTorch, and takes it from here on."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    _LIBRARY.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    # `torch.tensor` and `Tensor.new_tensor` make their result past all modes.
    for name in ("empty_strided", "empty.memory_format", "_copy_from", "copy_"):
        _ATEN.impl(name, _kernel(name), "PrivateUse1")
    for name in ("conv2d", "linear"):
        _ATEN.impl(name, _lowering(name), "AutocastPrivateUse1")
    torch.Generator = _Generator
    torch.inference_mode = _NoGrad
    FakeDevice().__enter__()
