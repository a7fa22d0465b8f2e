"""Gradients on their way UP: taken from autograd, sent while backward runs, summed by their owners.

A *window* is the time between two steps. In it each bucket leaves once, and buckets leave in index order on
every rank, because that order is what matches one rank's collectives with another's. Whatever happens to a
gradient after its bucket left (a second backward, ``zero_grad``) marks the bucket *rewritten*; the step's header
finds the union over all ranks, and those buckets are sent again.
"""

import torch
from torch import Tensor

from adamesh.engine.bucket import Berth, LiveBucket, LiveSlot, flat_real
from adamesh.engine.landing import Landing
from adamesh.engine.meter import Meter
from adamesh.engine.passage import Departure
from adamesh.engine.wiring import Wiring
from adamesh.errors import CommunicationError

__all__ = ["Reducer"]


class Reducer:
    """Owns the gradient side of all buckets of one optimizer on one rank."""

    def __init__(self, buckets: list[LiveBucket], wiring: Wiring, overlap: bool, meter: Meter) -> None:
        self.buckets = buckets
        self.syncing = True
        """False inside ``no_sync()``: gradients accumulate and nothing leaves."""
        self.islands_agree = True
        """Whether the schedule averages gradients across islands in the step that this window leads to."""
        self.step_number = 0
        """The step that this window leads to."""
        self.delay = 0
        """For how many more steps gradients may be on their way."""
        self.failure: str | None = None
        """Found inside backward; told to all ranks by the next header, and raised by all."""
        self.lost: CommunicationError | None = None
        """A worker was lost while buckets left inside backward; `step()` raises it."""
        self.backward_task: int | None = None
        """Autograd's number for the backward whose end will flush; None outside backward."""
        self._meter = meter
        self._wiring = wiring
        self._overlap = overlap
        self._awaits_scale = False
        self._loss_scale = 1.0
        self._next = 0
        self._open = False

    # -- during backward -------------------------------------------------------------------------------------

    def arriving(self, bucket: LiveBucket, slot: LiveSlot, grad: Tensor | None) -> None:
        """Autograd is about to add ``grad`` to a low-precision ``p.grad``: sum it in float32 as well.

        A custom ``Function`` may give None for it, which adds nothing.
        """
        sum_so_far = slot.param.grad
        if grad is None or sum_so_far is None or not bucket.awake or not slot.fits or grad.layout != torch.strided:
            return
        bucket.widen(self._wiring.first_comm)
        assert slot.wide_flat is not None
        if not (slot.wide_valid and self._untouched(slot)):
            slot.wide_flat.copy_(flat_real(sum_so_far.detach()))
        slot.wide_flat.add_(flat_real(grad.detach()))
        slot.wide_arriving = True

    def arrived(self, bucket: LiveBucket, slot: LiveSlot) -> None:
        """Autograd has finished ``p.grad`` of a slot: take it, and let the buckets go that are complete."""
        if not bucket.awake:
            return  # its first use; the header wakes the bucket on all ranks
        if not self._open:
            self._open_window()
        if slot.wide_arriving:
            assert slot.grad_flat is not None and slot.wide_flat is not None and slot.param.grad is not None
            slot.grad_flat.copy_(slot.wide_flat)
            if slot.param.is_contiguous():
                slot.param.grad = slot.grad_view
            else:
                slot.param.grad.detach().copy_(slot.grad_view)
            slot.seen = slot.param.grad
            self._remember(slot)
            slot.wide_arriving, slot.wide_valid = False, True
        else:
            self._take(slot)
        if bucket.left:
            bucket.rewritten = True
        elif self.syncing and not slot.ready:
            slot.ready = True
            bucket.pending -= 1
            if self.overlap:
                self._launch_sealed()

    def forget(self) -> None:
        """``zero_grad()``: whatever left is stale, whatever has not left starts over."""
        for bucket in self.buckets:
            if bucket.left:
                bucket.rewritten = True
                for slot in bucket.slots:  # now, so that zeros (set_to_none=False) are not taken for an edit
                    if not self._untouched(slot):
                        self._take(slot)
        self._open = False
        self.failure = self.backward_task = None

    def flush(self) -> None:
        """Let all buckets go that have not left, in order, with what they hold (end of backward, or ``step``)."""
        while self._next < len(self.buckets):
            self._launch_next()

    def depart(self) -> None:
        """`flush` outside of backward, where it can be said that a worker was lost.

        Raises:
            CommunicationError: one was, now or in a backward of this window.
        """
        self.flush()
        self.refuse_lost()

    def refuse_lost(self) -> None:
        """Raise what kept buckets from leaving, if anything did."""
        if self.lost is not None:
            raise self.lost

    @property
    def overlap(self) -> bool:
        """Whether buckets leave during backward."""
        return self._overlap and not self._awaits_scale

    @property
    def dirty(self) -> bool:
        """Something has left in this window, so collectives may be outstanding."""
        return any(bucket.left for bucket in self.buckets)

    # -- in step() -------------------------------------------------------------------------------------------

    def begin(self, loss_scale: float | None) -> None:
        """``step()`` was called: gradients are those of a loss times ``loss_scale``, under a gradient scaler.

        Coded gradients are unscaled ones, so from now on nothing leaves before ``step()`` knows the scale, and what
        has left by then is sent again.
        """
        self._loss_scale = loss_scale or 1.0
        coded = [b for b in self.buckets if b.leaves_coded(self.step_number, self.islands_agree)]
        self._awaits_scale = loss_scale is not None and bool(coded)
        for bucket in coded:
            bucket.rewritten |= bucket.left and self._loss_scale != 1.0

    def inspect(self) -> list[LiveSlot]:
        """After the flush: mark the buckets whose gradients were dropped or came late as rewritten.

        Returns the slots whose gradient somebody *edited* after it was sent: the editor meant the mean, and
        has changed only this rank's part of it.
        """
        edited = []
        for bucket in self.buckets:
            for slot in bucket.slots:
                if not bucket.left or self._untouched(slot):
                    continue
                bucket.rewritten = True
                if slot.hooked and slot.seen is not None and slot.param.grad is not None:
                    edited.append(slot)
        return edited

    def resend(self, bucket: LiveBucket, wide: bool) -> None:
        """Send a bucket whole, replacing what was sent before; the same buckets in the same order on every rank."""
        for work in bucket.in_flight:
            self._meter.wait(work)
            self._meter.buckets_resent += 1
        if wide:
            bucket.widen(self._wiring.first_comm)
            bucket.wide = True
        self._launch(bucket)

    def drain(self, weight: float, used: set[int]) -> float | Tensor:
        """Wait for all buckets in launch order; leaves ``weight * sum``, unscaled, in each ``reduced_S``.

        Returns the sum of squares of this rank's part of it; over all ranks each element counts exactly once.
        A sum that fails is raised at the end: until then other ranks wait for what this one has yet to launch.

        Args:
            weight: of each rank's gradient.
            used: numbers of the parameters that some rank used.
        """
        return self.landing(weight, used).finish()

    def landing(self, weight: float, used: set[int]) -> Landing:
        """The landing of what has left in this window."""
        travelling = [bucket for bucket in self.buckets if bucket.left]
        landing = Landing(self._wiring, self._meter, self.step_number, self.islands_agree)
        landing.begin(travelling, weight, self._loss_scale, used)
        return landing

    def leave_behind(self) -> None:
        """This window's gradients are on their way, and stay so while the next ones are computed."""
        for bucket in self.buckets:
            bucket.left = bucket.rewritten = False
            bucket.reduced_S = None
        self._begin_anew()

    def commit(self) -> None:
        """What was summed has been applied."""
        for bucket in self.buckets:
            if bucket.left:
                for passage in bucket.passages:
                    if passage.work is not None:
                        passage.commit()

    def settle(self) -> None:
        """Wait for whatever is outstanding: the step was aborted on all ranks."""
        for bucket in self.buckets:
            for work in bucket.in_flight:
                self._meter.wait(work)
        self.close_window()

    def close_window(self) -> None:
        """The step has ended, committed or not, and nothing is in flight any more."""
        for bucket in self.buckets:
            bucket.left = bucket.rewritten = False
            bucket.reduced_S = None
            for passage in bucket.passages:
                passage.work = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._loss_scale = 1.0
        self._next = 0
        self._open = False
        self.failure = self.backward_task = None

    # -- inside ----------------------------------------------------------------------------------------------

    def wake(self, bucket: LiveBucket) -> None:
        """Let a new or dormant bucket travel from now on."""
        bucket.wake(self._wiring.first_comm)
        count = 1 + self.delay
        bucket.berths = [Berth(self._wiring.within(bucket), self._wiring.across(bucket)) for _ in range(count)]
        bucket.turn = self.step_number % count

    def turn_to(self, step: int) -> None:
        """From now on buckets are those of a step's window: this one's, or one whose gradients are on their way."""
        for bucket in self.buckets:
            bucket.turn = step % len(bucket.berths)

    def _open_window(self) -> None:
        """Count, per bucket, the gradients that must arrive before it may leave; frozen slots need not."""
        for bucket in self.buckets:
            for slot in bucket.slots:
                slot.ready = not slot.param.requires_grad
            bucket.pending = sum(not slot.ready for slot in bucket.slots)
        self._open = True

    def _launch_sealed(self) -> None:
        while self._next < len(self.buckets):
            bucket = self.buckets[self._next]
            if bucket.awake and bucket.pending > 0:
                return
            self._launch_next()

    def _launch_next(self) -> None:
        bucket = self.buckets[self._next]
        self._next += 1
        if bucket.awake:
            self._launch(bucket)

    def _launch(self, bucket: LiveBucket) -> None:
        for slot in bucket.slots:
            if not self._untouched(slot):
                self._take(slot)
            if bucket.wide and not slot.wide_valid:
                assert slot.grad_flat is not None and slot.wide_flat is not None
                slot.wide_flat.copy_(slot.grad_flat)
        bucket.left, bucket.rewritten = True, False
        bucket.hold(self._wiring.first_comm)
        passage = bucket.first_passage(self.islands_agree)
        if passage is not None and self.lost is None:
            idle = [(slot.place.start, slot.place.stop) for slot in bucket.slots if slot.seen is None]
            departure = Departure(self.step_number, 1.0 / self._loss_scale, idle)
            try:
                self._meter.bytes_up += passage.launch(bucket.send_N, departure)
            except CommunicationError as error:  # a backward has nobody to tell
                self.lost = error

    def _take(self, slot: LiveSlot) -> None:
        """Bring the bucket's copy of a gradient up to date with ``p.grad``, and let ``p.grad`` be that copy."""
        assert slot.grad_flat is not None
        grad = slot.param.grad
        slot.wide_valid = False
        if grad is None:
            slot.grad_flat.zero_()
        elif grad.layout != torch.strided:
            self.failure = (
                f"the gradient of {slot.name!r} is of layout {grad.layout}: only dense gradients can be sent. Build "
                "its layer with sparse=False, or the optimizer over adamesh.param_groups(model), which sends rows"
            )
            grad = None  # not taken, so that it is found again if it is stepped on again
        elif not slot.fits:
            grad = None  # the header says so
        elif grad is not slot.grad_view:
            slot.grad_view.copy_(grad.detach())
            # Not with create_graph=True: the caller goes on to differentiate p.grad itself. And not if p is not
            # contiguous: autograd wants p.grad in the same memory format.
            if slot.param.is_contiguous() and not grad.requires_grad:
                grad = slot.param.grad = slot.grad_view
        slot.seen = grad
        self._remember(slot)

    @staticmethod
    def _remember(slot: LiveSlot) -> None:
        slot.seen_mark = (0, 0) if slot.seen is None else (slot.seen._version, slot.seen.data_ptr())

    @staticmethod
    def _untouched(slot: LiveSlot) -> bool:
        """``p.grad`` is what it was when the bucket last took it."""
        grad = slot.param.grad
        return grad is slot.seen and (grad is None or (grad._version, grad.data_ptr()) == slot.seen_mark)
