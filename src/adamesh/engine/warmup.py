"""A passage that is exact at first and coded from some step on."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from adamesh.comm.coder import Run
from adamesh.engine.passage import Departure, Passage

__all__ = ["WarmupPassage"]


class WarmupPassage(Passage):
    """Goes one way or the other by the number of the step.

    Args:
        exact: makes the way of the first steps; its buffers go when they are over.
        coded: the way of the others. Its residual is there from the start, as all state is, and zero until used.
        begun: whether a step is one of the others: the same on every rank.
    """

    def __init__(self, exact: Callable[[], Passage], coded: Passage, begun: Callable[[int], bool]) -> None:
        self._make_exact = exact
        self._exact: Passage | None = None
        self._coded = coded
        self._begun = begun
        self._taken = coded

    def codes(self, step: int) -> bool:
        return self._begun(step) and self._coded.codes(step)

    def launch(self, send_N: Tensor, departure: Departure) -> int:
        if self._begun(departure.step):
            self._taken, self._exact = self._coded, None
        else:
            self._taken = self._exact = self._exact or self._make_exact()
        num_bytes = self._taken.launch(send_N, departure)
        self._show()
        return num_bytes

    def take_in(self, scale: float, unused: Sequence[Run]) -> None:
        self._taken.take_in(scale, unused)
        self._show()

    def go_on(self) -> int | None:
        num_bytes = self._taken.go_on()
        self._show()
        return num_bytes

    def commit(self) -> None:
        self._taken.commit()

    @property
    def residuals(self) -> Mapping[str, tuple[Tensor, int]]:
        return self._coded.residuals

    @property
    def buffer_bytes(self) -> int:
        return self._coded.buffer_bytes + (self._exact.buffer_bytes if self._exact is not None else 0)

    def _show(self) -> None:
        """What the one taken shows is what this one shows."""
        self.work, self.squares = self._taken.work, self._taken.squares
        self.total = self._taken.total
