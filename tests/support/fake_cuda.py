"""A GPU of tensors that have a shape and a device but no numbers, so that a CPU shows which device everything lies on.

torch's fake tensors of `cuda:0` refuse to be mixed with those of the CPU, as a real GPU does. What a driver or numbers
would be needed for is stood in for: autograd's engine starts no thread for a GPU that is not there, so that every
gradient is zero; what reads a number reads one; a mask chooses all. Backward passes are thus not run here: they stay on
the devices of the forward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from kdbench.hardware.numerics import Numerics
from kdbench.tasks.image.networks import adapter, create

CUDA = torch.device("cuda", 0)
INDEXED = frozenset(["index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"])
COPIES = frozenset({"copy_", "_to_copy"})
# what pointwise operators allow of one number, these do not
OF_TENSORS = frozenset(
    {"cat", "stack", "mm", "bmm", "addmm", "matmul", "einsum", "scatter", "scatter_", "gather", "index_select"}
)


def is_mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


class Watch(TorchDispatchMode):
    """Notes operators on tensors of both devices, and answers where numbers are asked for.

    Attributes:
        mixed: how often, by operator.
        on_gpu: how many operators had a tensor of the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mixed: Counter[str] = Counter()
        self.on_gpu = 0
        self._integers = 0
        self._answers: Mapping[str, Callable[..., Any]] = {
            "_local_scalar_dense": self._number,
            "nonzero": lambda x: x.new_empty((max(x.numel() // 2, 2), x.dim()), dtype=torch.int64),
            "equal": lambda *_: True,
            "_linalg_check_errors": lambda *_, **__: None,
            "bincount": lambda x, weights=None, minlength=0: x.new_empty((max(minlength, 1),)),
            "_fused_sgd_": lambda *_, **__: None,
            "_fused_adam_": lambda *_, **__: None,
            "_fused_adamw_": lambda *_, **__: None,
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name.partition("::")[2], kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        host = [x for x in tensors if x.device.type == "cpu"]
        self.on_gpu += len(host) < len(tensors)
        if host and len(host) < len(tensors) and name not in COPIES and _mixes(name, args, host):
            self.mixed[name] += 1
        if name in self._answers:
            return self._answers[name](*args, **kwargs)
        if name in INDEXED and any(is_mask(index) for index in args[1]):
            return _masked(name, args)
        return func(*args, **kwargs)

    def _number(self, x: Tensor) -> bool | float | int:
        if x.dtype == torch.bool:
            return True
        self._integers += not x.is_floating_point()
        return 1.0 if x.is_floating_point() else self._integers % 2


def _mixes(name: str, args: Sequence[Any], host: Sequence[Tensor]) -> bool:
    """Whether a GPU would refuse these tensors of the host; it takes indices, by copying them."""
    if name in INDEXED:
        return args[0].device.type == "cpu"
    return name in OF_TENSORS or any(x.dim() for x in host)


def _masked(name: str, args: Sequence[Any]) -> Tensor:
    if "put" in name:
        return args[0]
    mask = next(index for index in args[1] if is_mask(index))
    # all but one of each row: what methods choose by masks of two dimensions are the other classes or samples
    count = mask.shape[0] * (mask.shape[1] - 1) if mask.dim() == 2 else mask.shape[0]
    return args[0].new_empty((count, *args[0].shape[mask.dim() :]))


@contextmanager
def fake_cuda() -> Iterator[Watch]:
    """Within it tensors are fake, and those of `CUDA` are there."""
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        _stand_in(patch)
        torch.clear_autocast_cache()
        with FakeTensorMode(allow_non_fake_inputs=False), watch:
            yield watch
    torch.clear_autocast_cache()


def _stand_in(patch: pytest.MonkeyPatch) -> None:
    """For what needs a driver, real numbers, or a module whose parameters change their type."""
    patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    patch.setattr(Numerics, "place", _place)
    for name in ("allclose", "equal"):
        patch.setattr(torch, name, _true_of_fakes(getattr(torch, name)))
    patch.setattr(torch.autograd, "grad", _zeros_of_fakes(torch.autograd.grad))
    patch.setattr(Tensor, "backward", _backward)
    patch.setattr(FakeTensor, "__deepcopy__", _deepcopy, raising=False)
    patch.setattr(nn.init, "trunc_normal_", lambda tensor, *_, **__: tensor)
    patch.setattr(nn.utils, "skip_init", _made)
    patch.setattr(adapter, "_dry_run", _evaluated)
    patch.setattr(adapter.TimmNetwork, "stage_parameters", _really_stage_parameters)


def _place(numerics: Numerics, module: nn.Module) -> nn.Module:
    """As `Numerics.place`; torch exchanges no parameter's data for those of another type."""

    def moved(x: Tensor) -> Tensor:
        last = numerics.channels_last and x.dim() == 4
        return x.detach().to(CUDA).to(memory_format=torch.channels_last if last else torch.preserve_format)

    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.device != CUDA:
                part._parameters[name] = nn.Parameter(moved(parameter), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(CUDA)
    return module


def _made(kind: type[nn.Module], *args: Any, device: Any = None, dtype: Any = None, **kwargs: Any) -> nn.Module:
    """`nn.utils.skip_init`, which would exchange what a parameter holds."""
    return kind(*args, device=device, dtype=dtype, **kwargs)


def _true_of_fakes(real: Callable[..., bool]) -> Callable[..., bool]:
    def compared(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> bool:
        assert a.device == b.device, f"{a.device} is compared with {b.device}"
        return True if isinstance(a, FakeTensor) else real(a, b, *args, **kwargs)

    return compared


def _zeros_of_fakes(real: Callable[..., Any]) -> Callable[..., Any]:
    def grad(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        leaves = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if not any(isinstance(leaf, FakeTensor) for leaf in leaves):
            return real(outputs, inputs, *args, **kwargs)
        first = outputs if isinstance(outputs, Tensor) else outputs[0]
        assert first.device == leaves[0].device, f"{first.device} is derived by {leaves[0].device}"
        return tuple(torch.zeros_like(leaf) for leaf in leaves)

    return grad


def _backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
    """Zeros for all leaves that the loss was computed from."""
    assert loss.device == CUDA, f"the loss is on {loss.device}"
    assert loss.grad_fn is not None
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions if following is not None]
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaf.grad = torch.zeros_like(leaf)


def _deepcopy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(tensor) not in memo:
        clone = tensor.detach().clone()
        memo[id(tensor)] = nn.Parameter(clone, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else clone
    return memo[id(tensor)]


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    """`adapter._dry_run` without the GPU's random numbers, of which there are none."""
    modes = {module: module.training for module in network.modules()}
    network.train().eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


_real_stage_parameters = adapter.TimmNetwork.stage_parameters
_real_grad = torch.autograd.grad


def _really_stage_parameters(network: Any) -> list[frozenset[str]]:
    """Of a real network of the same name: which gradient is there cannot be told of zeros."""
    return _stages(network.name, network.shapes.num_classes, network.input_size)


@cache
def _stages(name: str, classes: int, size: tuple[int, int, int]) -> list[frozenset[str]]:
    with _disable_current_modes(), mock.patch.object(torch.autograd, "grad", _real_grad):
        return _real_stage_parameters(create(name, num_classes=classes, in_chans=size[0], input_size=size))  # type: ignore[arg-type]
