"""Gradients on their way UP: taken from autograd, sent while backward runs, summed by their owners.

A *window* is the time between two steps. In it each bucket leaves once, and buckets leave in index order on
every rank, because that order is what matches one rank's collectives with another's. Whatever happens to a
gradient after its bucket left (a second backward, ``zero_grad``) marks the bucket *rewritten*; the step's header
finds the union over all ranks, and those buckets are sent again.
"""

import torch
from torch import Tensor

from adamesh.comm.base import Mesh, chunk
from adamesh.comm.channel import ExactUp, sum_in_rank_order
from adamesh.engine.bucket import Flight, LiveBucket, LiveSlot, flat_real, state_dtype
from adamesh.engine.meter import Meter

__all__ = ["Reducer"]


class Reducer:
    """Owns the gradient side of all buckets of one optimizer on one rank."""

    def __init__(self, buckets: list[LiveBucket], mesh: Mesh, overlap: bool, meter: Meter) -> None:
        self.buckets = buckets
        self.overlap = overlap
        self.syncing = True
        """False inside ``no_sync()``: gradients accumulate and nothing leaves."""
        self.islands_agree = True
        """Whether the schedule averages gradients across islands in the step that this window leads to."""
        self.failure: str | None = None
        """Found inside backward; told to all ranks by the next header, and raised by all."""
        self.backward_task: int | None = None
        """Autograd's number for the backward whose end will flush; None outside backward."""
        self._meter = meter
        self._within = ExactUp(mesh.shard) if mesh.shard.size > 1 else None
        self._across = ExactUp(mesh.replicate) if mesh.replicate.size > 1 else None
        self._first_comm = mesh.shard if self._within else mesh.replicate
        self._next = 0
        self._open = False
        self._failed_sum: Exception | None = None

    # -- during backward -------------------------------------------------------------------------------------

    def arriving(self, bucket: LiveBucket, slot: LiveSlot, grad: Tensor | None) -> None:
        """Autograd is about to add ``grad`` to a low-precision ``p.grad``: sum it in float32 as well.

        A custom ``Function`` may give None for it, which adds nothing.
        """
        sum_so_far = slot.param.grad
        if grad is None or sum_so_far is None or not bucket.awake or not slot.fits or grad.layout != torch.strided:
            return
        bucket.widen(self._first_comm)
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

    @property
    def dirty(self) -> bool:
        """Something has left in this window, so collectives may be outstanding."""
        return any(bucket.left for bucket in self.buckets)

    # -- in step() -------------------------------------------------------------------------------------------

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
            bucket.widen(self._first_comm)
            bucket.wide = True
        self._launch(bucket)

    def drain(self, scale: float) -> float | Tensor:
        """Wait for all buckets in launch order; leaves ``scale * sum`` in each ``reduced_S``.

        Returns the sum of squares of this rank's part of it; over all ranks each element counts exactly once.
        A sum that fails is raised at the end: until then other ranks wait for what this one has yet to launch.
        """
        self._failed_sum = None
        squares = self._land_all(scale)
        if self._failed_sum is not None:
            raise self._failed_sum
        return squares

    def _land_all(self, scale: float) -> float | Tensor:
        travelling = [bucket for bucket in self.buckets if bucket.left]
        across = self._across if self.islands_agree else None
        squares: float | Tensor = 0.0
        if self._within is not None:
            for bucket in travelling:
                assert bucket.within is not None
                total_S, part = self._collect(self._within, bucket.within, 1.0 if across else scale)
                squares = squares + part
                bucket.reduced_S = total_S
                if across is not None:
                    bucket.across = self._fly(across, bucket.across, total_S)
        elif across is None:
            for bucket in travelling:
                bucket.reduced_S, part = self._alone(bucket.send_N, scale)
                squares = squares + part
        if across is None:
            return squares

        squares = 0.0
        gathers = []
        for bucket in travelling:
            assert bucket.across is not None
            _, part = self._collect(across, bucket.across, scale)
            squares = squares + part
            total_N = bucket.across.total_N
            assert total_N is not None
            gathers.append(across.comm.all_gather(total_N))
            self._meter.bytes_up += across.bytes_sent(total_N)
            bucket.reduced_S = total_N
        for gather in gathers:
            self._meter.wait(gather)
        return squares

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
            for flight in (bucket.within, bucket.across):
                if flight is not None:
                    flight.work = None
        self._next = 0
        self._open = False
        self.failure = self.backward_task = None

    # -- inside ----------------------------------------------------------------------------------------------

    def wake(self, bucket: LiveBucket) -> None:
        """Let a new or dormant bucket travel from now on."""
        bucket.wake(self._first_comm)

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
        if self._within is not None:
            bucket.within = self._fly(self._within, bucket.within, bucket.send_N)
        elif self._across is not None and self.islands_agree:
            bucket.across = self._fly(self._across, bucket.across, bucket.send_N)

    def _take(self, slot: LiveSlot) -> None:
        """Bring the bucket's copy of a gradient up to date with ``p.grad``, and let ``p.grad`` be that copy."""
        assert slot.grad_flat is not None
        grad = slot.param.grad
        slot.wide_valid = False
        if grad is None:
            slot.grad_flat.zero_()
        elif grad.layout != torch.strided:
            self.failure = (
                f"the gradient of {slot.name!r} is of layout {grad.layout}: only dense gradients can be sent. "
                "Build its layer with sparse=False"
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

    def _fly(self, up: ExactUp, flight: Flight | None, send_N: Tensor) -> Flight:
        """Launch along one axis, into the landing buffers of the last time where they still fit."""
        if flight is None or flight.recv_N.dtype != send_N.dtype:
            flight = self._landing(up, send_N, everybody_needs_all=up is self._across)
        flight.send_N = send_N
        self._meter.bytes_up += up.bytes_sent(send_N)
        flight.work = up.launch(flight.recv_N, send_N)
        return flight

    def _collect(self, up: ExactUp, flight: Flight, scale: float) -> tuple[Tensor, float | Tensor]:
        assert flight.work is not None
        self._meter.wait(flight.work)
        try:
            return flight.total_S, up.collect(flight.recv_N, flight.send_N, flight.total_S, scale)
        except Exception as error:
            self._failed_sum = self._failed_sum or error
            return flight.total_S, 0.0

    @staticmethod
    def _landing(up: ExactUp, send_N: Tensor, *, everybody_needs_all: bool) -> Flight:
        comm, numel, dtype = up.comm, send_N.numel(), state_dtype(send_N.dtype)
        recv_N = comm.allocate(numel, send_N.dtype, send_N.device)
        if dtype == send_N.dtype:
            return Flight(send_N, recv_N, chunk(recv_N, comm.rank, comm.size), recv_N)
        if everybody_needs_all:
            total_N = comm.allocate(numel, dtype, send_N.device)
            return Flight(send_N, recv_N, chunk(total_N, comm.rank, comm.size), total_N)
        return Flight(send_N, recv_N, comm.allocate(numel // comm.size, dtype, send_N.device), None)

    @staticmethod
    def _alone(send_N: Tensor, scale: float) -> tuple[Tensor, float | Tensor]:
        """No axis to travel along: the sum over ranks is this rank's gradient itself, copied only if it must be."""
        dtype = state_dtype(send_N.dtype)
        total_N = send_N if dtype == send_N.dtype and scale == 1.0 else torch.empty_like(send_N, dtype=dtype)
        return total_N, sum_in_rank_order([send_N], total_N, scale)
