"""When a run ends before its last step: the gradient no longer changes, or somebody asked it to stop."""

import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interruption", "Plateau"]


class Plateau:
    """Notices that the gradient norm has settled.

    It has once the largest and the smallest norm of the last ``steps`` steps differ by less than
    ``tolerance`` times the largest. A norm that falls steadily, however small, has not settled.

    Args:
        tolerance: relative; None: never settles.
        steps: how many of the last norms are compared.
        recent: norms before the first step, from a checkpoint.
    """

    def __init__(self, tolerance: float | None, steps: int, recent: Sequence[float] = ()) -> None:
        self._tolerance = tolerance
        self._recent = deque(recent, maxlen=steps)

    @property
    def recent(self) -> list[float]:
        """What a checkpoint has to keep."""
        return list(self._recent) if self._tolerance is not None else []

    def settled(self, grad_norm: float) -> bool:
        """Take the norm of one more step into account."""
        self._recent.append(grad_norm)
        if self._tolerance is None or len(self._recent) < (self._recent.maxlen or 0):
            return False
        largest = max(self._recent)
        # Norms that are all exactly 0 have settled too: nothing will move any more.
        return largest - min(self._recent) <= self._tolerance * largest


class Interruption:
    """While active, SIGINT and SIGTERM only set `requested`; the loop acts on it between two steps.

    All later signals are absorbed too: on Ctrl-C a terminal and the launcher both signal every worker.
    Whoever is in a hurry sends SIGKILL.

    Args:
        leave: what SIGTERM does instead, where one worker may go and the others go on.
    """

    def __init__(self, leave: Callable[[], None] | None = None) -> None:
        self.requested = False
        self._leave = leave
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Python lets only the main thread set handlers; elsewhere the signals are somebody else's business.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _request(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and self._leave is not None:
            self._leave()
        else:
            self.requested = True
