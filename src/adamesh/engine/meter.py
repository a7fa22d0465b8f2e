"""What a step cost: bytes and seconds, counted where they are spent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from adamesh.comm.base import Communicator, Work
from adamesh.engine.refusal import Refusal

__all__ = ["Meter", "PushStats", "StepStats"]


@dataclass(frozen=True)
class PushStats:
    """What became of this worker's gradients under ``sync=Async(...)``.

    Counts are of chunks, an owner's part of a bucket each, since the optimizer was built.
    """

    accepted_share: float
    """Of the elements that the last step pushed (or of the last step whose answers it took)."""
    accepted: int
    stale: int
    """Rejected, because the chunk had had too many updates since it was read."""
    non_finite: int
    """Rejected, because there was a NaN or an infinity in the gradient."""
    staleness: Mapping[int, int]
    """How many chunks, accepted or stale ones, had had how many updates since they were read."""


@dataclass(frozen=True)
class StepStats:
    """What the last step did and cost on this rank."""

    step: int
    """Steps made so far, skipped ones included; one that raised an error was not made."""
    committed: bool
    """False if the step was skipped, on all workers (a non-finite gradient under a gradient scaler; the guard)."""
    world_size: int
    bytes_up: int
    """Gradient bytes this rank sent, repeated ones included."""
    bytes_down: int
    """Parameter bytes this rank sent."""
    bytes_control: int
    """Bytes of headers and votes this rank sent."""
    comm_exposed_s: float
    """Seconds this rank waited for communication inside ``step()``: what backward did not hide. (And, with
    ``sparse="exact"``, in the forward of embeddings; their bytes count as well, those of ``flush()`` too.)"""
    state_bytes: int
    """Optimizer state on this rank: moments, and master weights where they are kept apart."""
    buffer_bytes: int
    """Buckets on this rank: parameters, gradients, and what arrives from others."""
    buckets_resent: int
    """Buckets sent again in ``step()`` because some rank completed or rewrote them after they left."""
    staleness: int = 0
    """Steps between reading parameters and applying their gradient; under ``Async``, updates by anybody in
    between, the most of any chunk."""
    divergence: float | None = None
    """When islands agreed last: the root mean square distance of their parameters from the mean, over the mean's
    length. None before, and where islands step together."""
    bytes_per_step: float = 0.0
    """Bytes of all kinds this rank sent per step, from one agreement of islands to the next, of those the last."""
    frozen_after: int | None = None
    """Updates after which second moments were frozen, and codecs that wait for it set in; None: not (yet)."""
    work_s: tuple[float, ...] = ()
    """Seconds that each worker of the step took up to ``step()``, waiting left out, by rank: since ``begin_work()``, or
    since its last step."""
    pushes: PushStats | None = None
    """What became of pushed gradients; None where nothing is pushed."""
    refusal: Refusal | None = None
    """Why the guard (``Plan(guard=...)``) had the step skipped; None where it had not."""


class Meter:
    """Adds up one step's bytes and waiting; the clock is given, because the engine has none."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.divergence: float | None = None
        self.bytes_per_step = 0.0
        self.work_s: tuple[float, ...] = ()
        self._period_bytes = self._period_steps = 0
        self.reset()

    def close_step(self, *, ends_period: bool) -> None:
        """A step has ended; after this one, islands may have agreed."""
        self._period_bytes += self.bytes_up + self.bytes_down + self.bytes_control
        self._period_steps += 1
        if ends_period:
            self.bytes_per_step = self._period_bytes / self._period_steps
            self._period_bytes = self._period_steps = 0

    def reset(self) -> None:
        """Start counting afresh: a step has ended."""
        self.bytes_up = self.bytes_down = self.bytes_control = self.buckets_resent = 0
        self.exposed_s = 0.0
        self.begin_work()

    def begin_work(self) -> None:
        """From now on this rank works on its next step."""
        self._began_s, self._exposed_before_s = self._clock(), self.exposed_s

    def worked_s(self) -> float:
        """Seconds since then, waiting left out."""
        return self._clock() - self._began_s - (self.exposed_s - self._exposed_before_s)

    def wait(self, work: Work) -> None:
        """Wait for a collective, and count the time."""
        start = self._clock()
        work.wait()
        self.exposed_s += self._clock() - start

    def read(self, value: float | Tensor) -> float:
        """A number that may still be computed on a device, behind collectives; the wait is counted."""
        start = self._clock()
        number = float(value)
        self.exposed_s += self._clock() - start
        return number

    def exchange(self, comm: Communicator, message: bytes, topic: str) -> list[bytes]:
        """A control message, counted."""
        start = self._clock()
        answers = comm.exchange(message, topic)
        self.exposed_s += self._clock() - start
        self.bytes_control += len(message) * (comm.size - 1)
        return answers
