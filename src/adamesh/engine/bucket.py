"""A bucket's memory: the flat buffers that a layout's integers describe, and the ways that gradients take from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adamesh.comm.base import Communicator, Mesh, Work
from adamesh.comm.channel import state_dtype
from adamesh.engine.passage import Passage
from adamesh.layout import Bucket, Layout, Slot

__all__ = ["Berth", "LiveBucket", "LiveSlot", "flat_real", "live_buckets", "state_dtype"]


def flat_real(tensor: Tensor) -> Tensor:
    """A tensor's elements in logical order as a flat real tensor; a view where the tensor is contiguous."""
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)


class LiveSlot:
    """One parameter, its place in the bucket, and what this rank knows of its gradient."""

    def __init__(self, name: str, param: nn.Parameter, place: Slot, param_N: Tensor) -> None:
        self.name = name
        self.param = param
        self.place = place
        self.value = param_N[place.start : place.stop]  # flat and real
        self.shape = param.shape
        self.aliased = False
        """The parameter lives in the bucket."""
        self.home = 0
        """The address of the parameter's storage when the bucket last had its value."""
        self.grad_flat: Tensor | None = None
        self._grad_view: Tensor | None = None
        self.wide_flat: Tensor | None = None
        self.wide_arriving = self.wide_valid = False
        """``wide_flat`` is the float32 sum of which ``p.grad`` is going to be, is, the rounding."""
        self.seen: Tensor | None = None
        """``p.grad`` when its content was last taken into the bucket, and its version and address then."""
        self.seen_mark = (0, 0)
        self.param_version = 0
        self.hooked = False
        self.ready = False
        self.steps = 0
        """Committed updates; the same on all ranks."""
        self.scalars: dict[str, Tensor] = {}
        """The rule's own numbers, if it has any and the bucket is awake; the same on all ranks."""

    def shaped(self, flat: Tensor) -> Tensor:
        """A flat real run of the bucket, seen in the parameter's shape and dtype."""
        if self.param.is_complex():
            return torch.view_as_complex(flat.view(*self.param.shape, 2))
        return flat.view(self.param.shape)

    @property
    def grad_view(self) -> Tensor:
        """``grad_flat`` as ``p.grad``; a new one if somebody gave the last other storage (``module.to(...)`` does)."""
        assert self.grad_flat is not None
        if self._grad_view is None or self._grad_view.data_ptr() != self.grad_flat.data_ptr():
            # .data, because views share their base's version counter, and each gradient's must be its own.
            self._grad_view = self.shaped(self.grad_flat).data
        return self._grad_view

    def adopt(self) -> None:
        """Copy the parameter into the bucket and, if it is contiguous, let it live there from now on."""
        self.value.copy_(flat_real(self.param.detach()))
        # A contiguous parameter lives in the bucket, so that gathering the bucket updates it with no further
        # copy. Others (channels_last) keep their storage; the bucket holds them in logical order.
        self.aliased = self.param.is_contiguous()
        if self.aliased:
            self.param.data = self.shaped(self.value)
        self.home = self.param.data_ptr()
        self.param_version = self.param._version

    def publish(self) -> None:
        """The bucket has a new value: bring it to a parameter that does not live there, and remember the version."""
        if not self.aliased:
            with torch.no_grad():
                self.param.copy_(self.shaped(self.value))
        self.param_version = self.param._version

    @property
    def moved(self) -> bool:
        """Somebody gave the parameter other storage (``p.data = ...``, ``module.to(...)``)."""
        return self.param.data_ptr() != self.home

    @property
    def fits(self) -> bool:
        """The parameter still is of the shape, dtype and device of its place."""
        param, value = self.param, self.value
        return param.shape == self.shape and param.dtype.to_real() == value.dtype and param.device == value.device

    @property
    def changed(self) -> bool:
        """Somebody wrote to the parameter since the last commit."""
        return self.param._version != self.param_version or self.moved


@dataclass
class Berth:
    """The ways of one window's gradient, and where it stays while it is on them."""

    within: Passage | None = None
    """The way to the owners inside the island; None where nobody else is there."""
    across: Passage | None = None
    """The way between islands; None where there are no others."""
    held_N: Tensor | None = None
    """The gradient, where the next backward must not wait until it has arrived."""


class LiveBucket:
    """The buffers of one bucket, and its passages.

    ``param_N`` always exists. The rest is allocated by :meth:`wake`, which a dormant bucket puts off until
    one of its frozen parameters is used for the first time.
    """

    def __init__(self, place: Bucket, slots: Sequence[LiveSlot], param_N: Tensor) -> None:
        self.place = place
        self.slots = list(slots)
        self.param_N = param_N
        self.grad_N: Tensor | None = None
        self.wide_N: Tensor | None = None
        """Sums of several backwards in float32, for parameters of lower precision; None until needed."""
        self.wide = False
        """All ranks send ``wide_N``: agreed in a header, and kept."""
        self.pending = 0
        self.left = False
        self.rewritten = False
        self.berths = [Berth()]
        """As many as there are windows whose gradients may be on their way at once."""
        self.turn = 0
        """Whose turn it is."""
        self.reduced_S: Tensor | None = None
        self.momentum: Callable[[], tuple[Tensor, float]] | None = None
        """This rank's slice of the first moment, and its decay; None while the bucket sleeps, or where nobody asks."""

    @property
    def awake(self) -> bool:
        return self.grad_N is not None

    @property
    def dtype(self) -> torch.dtype:
        return self.param_N.dtype

    @property
    def low_precision(self) -> bool:
        return self.state_dtype != self.dtype

    @property
    def state_dtype(self) -> torch.dtype:
        """What its sums, masters, moments and residuals are kept in."""
        return state_dtype(self.dtype)

    @property
    def gradient_N(self) -> Tensor:
        """The sum of this window's gradients."""
        buffer_N = self.wide_N if self.wide else self.grad_N
        assert buffer_N is not None, "a dormant bucket does not travel"
        return buffer_N

    @property
    def send_N(self) -> Tensor:
        """What travels UP first."""
        held_N = self.berths[self.turn].held_N
        return self.gradient_N if held_N is None else held_N

    @property
    def within(self) -> Passage | None:
        """The way to the owners inside the island."""
        return self.berths[self.turn].within

    @property
    def across(self) -> Passage | None:
        """The way between islands."""
        return self.berths[self.turn].across

    def hold(self, comm: Communicator) -> None:
        """Where several windows are on their way at once: put this one's gradient where no backward writes."""
        if len(self.berths) > 1:
            berth, gradient_N = self.berths[self.turn], self.gradient_N
            if berth.held_N is None or berth.held_N.dtype != gradient_N.dtype:
                berth.held_N = comm.allocate(gradient_N.numel(), gradient_N.dtype, gradient_N.device)
            berth.held_N.copy_(gradient_N)

    @property
    def in_flight(self) -> list[Work]:
        """The collectives launched for this bucket in this window."""
        return [passage.work for passage in self.passages if passage.work is not None]

    @property
    def passages(self) -> list[Passage]:
        return [passage for passage in (self.within, self.across) if passage is not None]

    def first_passage(self, islands_agree: bool) -> Passage | None:
        """The way that the bucket leaves, if there is one to go."""
        return self.within or (self.across if islands_agree else None)

    def leaves_coded(self, step: int, islands_agree: bool) -> bool:
        """Whether what leaves are coded numbers, which must be unscaled ones."""
        passage = self.first_passage(islands_agree)
        return passage is not None and passage.codes(step)

    def wake(self, comm: Communicator) -> None:
        """Allocate what a travelling bucket needs; ``comm`` is the axis it leaves along."""
        self.grad_N = comm.allocate(self.place.numel, self.dtype, self.param_N.device)
        for slot in self.slots:
            slot.grad_flat = self.grad_N[slot.place.start : slot.place.stop]

    def widen(self, comm: Communicator) -> None:
        """Allocate the float32 sums of a low-precision bucket."""
        if self.wide_N is None:
            self.wide_N = comm.allocate(self.place.numel, torch.float32, self.param_N.device)
            for slot in self.slots:
                slot.wide_flat = self.wide_N[slot.place.start : slot.place.stop]

    @property
    def buffer_bytes(self) -> int:
        """Everything allocated for this bucket but its optimizer state."""
        buffers = [self.param_N, self.grad_N, self.wide_N, *(berth.held_N for berth in self.berths)]
        own = sum(b.numel() * b.element_size() for b in buffers if b is not None)
        ways = [way for berth in self.berths for way in (berth.within, berth.across) if way is not None]
        return own + sum(way.buffer_bytes for way in ways)

    @property
    def residual_bytes(self) -> int:
        """What codecs have held back, which is optimizer state."""
        residuals = [tensor for passage in self.passages for tensor, _ in passage.residuals.values()]
        return sum(residual.numel() * residual.element_size() for residual in residuals)


def live_buckets(
    layout: Layout, first: int, params: Sequence[nn.Parameter], mesh: Mesh, device: torch.device
) -> list[LiveBucket]:
    """Allocate buckets ``first`` and later of a layout and move the parameters' values into them."""
    buckets = []
    for place in layout.buckets[first:]:
        dtype = getattr(torch, place.dtype)
        param_N = mesh.shard.allocate(place.numel, dtype, device)
        slots = [LiveSlot(layout.params[s.param].name, params[s.param], s, param_N) for s in place.slots]
        for slot in slots:
            slot.adopt()
        buckets.append(LiveBucket(place, slots, param_N))
    return buckets
