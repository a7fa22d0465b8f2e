"""Landing: all buckets that left are led to the end of their ways, inside the island first, then between islands."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adamesh.comm.channel import state_dtype, sum_in_rank_order
from adamesh.comm.coder import Run
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.meter import Meter
from adamesh.engine.passage import Departure, Passage
from adamesh.engine.wiring import Wiring

__all__ = ["Landing"]


class Landing:
    """One step's.

    Args:
        wiring: which ways there are.
        meter: counts bytes and waiting.
        step: the step's number.
        islands_agree: whether gradients are averaged across islands in it.
    """

    def __init__(self, wiring: Wiring, meter: Meter, step: int, islands_agree: bool) -> None:
        self.failure: Exception | None = None
        """The first that was raised while summing: the others wait for what this rank has yet to launch, so that it
        has been kept until the end."""
        self._wiring = wiring
        self._meter = meter
        self._step = step
        self._crosses = wiring.goes_across and islands_agree
        self._islands_agree = islands_agree
        self._buckets: Sequence[LiveBucket] = ()
        self._inside: list[LiveBucket] = []
        self._outside: list[LiveBucket] = []
        self._reduced: list[tuple[LiveBucket, Tensor]] = []
        self._scale = 1.0
        self._scales: dict[int, tuple[float, float]] = {}
        self._squares: float | Tensor = 0.0
        self._unused: dict[int, list[Run]] = {}

    def begin(self, buckets: Sequence[LiveBucket], weight: float, loss_scale: float, used: set[int]) -> None:
        """These buckets have left; ``weight / loss_scale * sum`` is wanted of them, of what ``used`` says."""
        self._buckets = buckets
        self._scale = weight / loss_scale
        self._scales = {bucket.place.index: self._scales_of(bucket, weight, loss_scale) for bucket in buckets}
        self._unused = {
            bucket.place.index: [(s.place.start, s.place.stop) for s in bucket.slots if s.place.param not in used]
            for bucket in buckets
        }
        self._inside = list(buckets) if self._wiring.goes_within else []
        self._outside = list(buckets) if self._crosses and not self._wiring.goes_within else []

    def finish(self) -> float | Tensor:
        """Lead buckets to their ends, in order; leaves what is wanted in each ``reduced_S``.

        Returns the sum of squares of this rank's part of it.

        Raises:
            Exception: what went wrong here, once the others have all that they wait for.
        """
        while self.advance():
            pass
        for bucket, total_S in self._reduced:
            bucket.reduced_S = total_S
        if not (self._wiring.goes_within or self._crosses):
            for bucket in self._buckets:
                bucket.reduced_S, part = _alone(bucket.send_N, self._scale)
                self._squares = self._squares + part
        if self.failure is not None:
            raise self.failure
        return self._squares

    def advance(self) -> bool:
        """Lead all buckets through one leg; returns whether there was one."""
        if self._inside:
            going_on = []
            for bucket in self._inside:
                assert bucket.within is not None
                if self._proceed(bucket, bucket.within, self._scales[bucket.place.index][0]):
                    going_on.append(bucket)
                elif self._crosses:
                    assert bucket.across is not None
                    departure = Departure(self._step, 1.0, self._unused[bucket.place.index])
                    self._meter.bytes_up += bucket.across.launch(bucket.within.total, departure)
                    self._outside.append(bucket)
                else:
                    self._take(bucket, bucket.within)
            self._inside = going_on
            return True
        if self._outside:
            going_on = []
            for bucket in self._outside:
                assert bucket.across is not None
                if self._proceed(bucket, bucket.across, self._scales[bucket.place.index][1]):
                    going_on.append(bucket)
                else:
                    self._take(bucket, bucket.across)
            self._outside = going_on
            return True
        return False

    def _take(self, bucket: LiveBucket, passage: Passage) -> None:
        self._reduced.append((bucket, passage.total))
        self._squares = self._squares + passage.squares

    def _proceed(self, bucket: LiveBucket, passage: Passage, scale: float) -> bool:
        """Wait for a leg and start the next one; returns whether there is one."""
        assert passage.work is not None
        self._meter.wait(passage.work)
        try:
            passage.take_in(scale, self._unused[bucket.place.index])
        except Exception as error:
            self.failure = self.failure or error
        num_bytes = passage.go_on()
        self._meter.bytes_up += num_bytes or 0
        return num_bytes is not None

    def _scales_of(self, bucket: LiveBucket, weight: float, loss_scale: float) -> tuple[float, float]:
        """What to multiply a bucket's sums by, inside the island and across: all in all ``weight / loss_scale``.

        Residuals are in units of a mean gradient, whatever the numbers of workers, so what is coded between islands is
        an island's mean. What is coded first has been unscaled before.
        """
        if bucket.leaves_coded(self._step, self._islands_agree):
            loss_scale = 1.0
        if not self._crosses:
            return weight / loss_scale, 1.0
        assert bucket.across is not None
        if bucket.across.codes(self._step):
            num_islands = self._wiring.mesh.replicate.size
            return weight * num_islands / loss_scale, 1.0 / num_islands
        return 1.0, weight / loss_scale


def _alone(send_N: Tensor, scale: float) -> tuple[Tensor, float | Tensor]:
    """No axis to travel along: the sum over ranks is this rank's gradient itself, copied only if it must be."""
    dtype = state_dtype(send_N.dtype)
    total_N = send_N if dtype == send_N.dtype and scale == 1.0 else torch.empty_like(send_N, dtype=dtype)
    return total_N, sum_in_rank_order([send_N], total_N, scale)
