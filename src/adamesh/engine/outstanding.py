"""Gradients whose update is still to be made, under a schedule that lets them be some steps late."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from adamesh.comm.base import chunk
from adamesh.comm.channel import sum_in_rank_order
from adamesh.engine.landing import Landing
from adamesh.engine.reducer import Reducer
from adamesh.engine.wiring import Wiring
from adamesh.errors import CommunicationError

__all__ = ["Outstanding", "Parcel"]


@dataclass
class Parcel:
    """One step's gradients on their way, or here."""

    step: int
    used: set[int]
    """Numbers of the parameters that some rank used."""
    landing: Landing | None
    """None once all is here."""
    reduced: dict[int, Tensor] = field(default_factory=dict)
    """This rank's slice of the mean gradient, by bucket, once it is here."""
    failure: Exception | None = None
    """What went wrong here on the way; told to the others when the update is due."""


class Outstanding:
    """The parcels of one optimizer on one rank, the oldest first.

    Args:
        reducer: whose windows they are.
        wiring: who talks to whom.
        delay: how many there are once training is under way.
    """

    def __init__(self, reducer: Reducer, wiring: Wiring, delay: int) -> None:
        self.delay = delay
        self.parcels: deque[Parcel] = deque()
        self._reducer = reducer
        self._wiring = wiring
        reducer.delay = delay

    def advance(self) -> None:
        """Lead each parcel through one more leg, so that all are hidden if there are steps enough. Collective."""
        for parcel in self.parcels:
            if parcel.landing is not None:
                self._reducer.turn_to(parcel.step)
                parcel.landing.advance()
        self._reducer.turn_to(self._reducer.step_number)

    def arrive(self, parcel: Parcel) -> None:
        """Wait for all of a parcel. Collective."""
        if parcel.landing is None:
            return
        landing, parcel.landing = parcel.landing, None
        self._reducer.turn_to(parcel.step)
        try:
            landing.finish()
            for bucket in self._reducer.buckets:
                if bucket.reduced_S is not None:
                    parcel.reduced[bucket.place.index], bucket.reduced_S = bucket.reduced_S, None
        except CommunicationError:
            raise
        except Exception as error:
            parcel.failure = error
        finally:
            self._reducer.turn_to(self._reducer.step_number)

    def take_oldest(self) -> tuple[Parcel, float | Tensor]:
        """The parcel whose update is due, with the sum of squares of this rank's part of it. Collective.

        Raises:
            Exception: what went wrong here, once the others have all that they wait for.
        """
        parcel = self.parcels.popleft()
        self.arrive(parcel)
        if parcel.failure is not None:
            raise parcel.failure
        squares: float | Tensor = 0.0
        replicate = self._wiring.mesh.replicate
        for bucket in self._reducer.buckets:
            bucket.reduced_S = parcel.reduced.get(bucket.place.index)
            if bucket.reduced_S is not None:
                # As passages count it: each island a part of what they all hold.
                own_S = chunk(bucket.reduced_S, replicate.rank, replicate.size)
                squares = squares + sum_in_rank_order([own_S], own_S, 1.0)
        return parcel, squares

    def leave(self, used: set[int], weight: float) -> None:
        """The window that ends becomes a parcel."""
        landing = self._reducer.landing(weight, used)
        self.parcels.append(Parcel(self._reducer.step_number, used, landing))
        self._reducer.leave_behind()

    def settle(self) -> None:
        """Wait for everything, and apply nothing. Collective."""
        for parcel in self.parcels:
            self.arrive(parcel)

    def restore(self, parcels: Iterable[tuple[int, set[int], Mapping[int, Tensor]]]) -> None:
        """Take the place of what was there: steps, parameters used, slices by bucket."""
        self.parcels = deque(Parcel(step, used, None, dict(reduced)) for step, used, reduced in parcels)
