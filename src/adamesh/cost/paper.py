"""Tensors on paper: operations that are counted and not computed.

Under torch's ``FakeTensorMode`` tensors have shapes and no numbers, so that a model of any size takes a step on any
machine. `Tally` sees every operation of model, autograd, codecs and optimizer alike, and counts

    memory   storages that are alive, by weak references: their sum now, and the most it ever was
    FLOPs    by the formulas of ``torch.utils.flop_counter``
    seconds  max(FLOPs / F, bytes / B) + o for each operation: the roofline (Williams et al. 2009), with the time ``o``
             that an operation takes however small it is
"""

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

__all__ = ["Speed", "Tally", "on_paper"]

_SCALAR = torch.ops.aten._local_scalar_dense.default
_ATTENTION: Mapping[str, Callable[..., Any]] = {
    "_scaled_dot_product_flash_attention_for_cpu": sdpa_flop,
    "_scaled_dot_product_flash_attention_for_cpu_backward": sdpa_backward_flop,
}
"""What torch 2.13's table lacks."""


@dataclass(frozen=True)
class Speed:
    """What one worker's device can do."""

    flops_per_s: float
    bytes_per_s: float
    """To and from its memory."""
    operation_s: float
    """The least that an operation takes."""


class Tally(TorchDispatchMode):
    """Counts what happens while it is active.

    Args:
        speed: what makes seconds of operations.
    """

    def __init__(self, speed: Speed) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._speed = speed
        self._storages: dict[int, int] = {}
        self.live_bytes = self.peak_bytes = 0
        self.flops = 0
        self.now_s = 0.0

    def read_clock(self) -> float:
        """Seconds so far, for whoever wants a clock."""
        return self.now_s

    def forget_peak(self) -> None:
        """From now on, the most is counted afresh."""
        self.peak_bytes = self.live_bytes

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Let an operation happen, and count it."""
        kwargs = kwargs or {}
        if func is _SCALAR and isinstance(args[0], FakeTensor):
            return _zero(args[0].dtype)
        result = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._charge(func, args, kwargs, result, given, made)
        for tensor in (*given, *made):
            self._hold(tensor)
        return result

    def _charge(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
        given: Sequence[Tensor],
        made: Sequence[Tensor],
    ) -> None:
        speed = self._speed
        self.now_s += speed.operation_s
        if func.is_view:
            return
        moved = sum(t.numel() * t.element_size() for t in (*given, *made))
        count = _formula(func)
        flops = count(*args, **kwargs, out_val=result) if count is not None else 0
        self.flops += flops
        self.now_s += max(flops / speed.flops_per_s, moved / speed.bytes_per_s)

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = storage.nbytes()
            self.live_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            weakref.finalize(storage, self._release, key).atexit = False

    def _release(self, key: int) -> None:
        self.live_bytes -= self._storages.pop(key)


def _zero(dtype: torch.dtype) -> bool | int | float | complex:
    """Numbers on paper are zeros: a loss, a norm, whether something overflowed."""
    if dtype == torch.bool:
        return False
    return 0j if dtype.is_complex else 0.0 if dtype.is_floating_point else 0


def _formula(func: Any) -> Callable[..., int] | None:
    packet = func._overloadpacket
    table: Mapping[Any, Callable[..., int]] = flop_registry
    return table.get(packet) or _ATTENTION.get(packet.__name__)


@contextmanager
def on_paper(tally: Tally) -> Iterator[Callable[[Any], Any]]:
    """Inside, every tensor that is made has no numbers, and the tally counts.

    Yields:
        What puts a batch's tensors on paper.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(batch: Any) -> Any:
        return tree_map(lambda leaf: mode.from_tensor(leaf) if isinstance(leaf, Tensor) else leaf, batch)

    with warnings.catch_warnings():
        # The engine asks for addresses only to see that a tensor has kept its own; on paper all have.
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        with mode, tally:
            yield fake
