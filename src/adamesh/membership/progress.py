"""Who hangs: judged by what workers do, not by whether their sentinels talk."""

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from adamesh.membership.messages import Beat

__all__ = ["OUTSIDE", "STARTING", "Progress"]

STARTING = "starting"
"""The phase of a worker that has not noted any yet."""
OUTSIDE = frozenset({STARTING, "joining", "evaluating", "saving", "loading"})
"""Phases outside a step, which may take any time: a worker in one of them never counts as hung."""
_TIMES_USUAL = 20.0
_RECENT = 9


@dataclass
class Course:
    """What one worker does."""

    beat: Beat
    moved_at: float
    """When anything of it last changed."""
    step_at: float
    recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    @property
    def usual_s(self) -> float:
        """The time of a step: the median of the last few, of which the first are no measure."""
        return statistics.median(self.recent_s) if self.recent_s else 0.0


class Progress:
    """Finds the worker that all others wait for, and that does nothing.

    Args:
        floor_s: the shortest standstill that means anything, seconds; else 20 times the usual step.
    """

    def __init__(self, floor_s: float) -> None:
        self.floor_s = floor_s
        self._courses: dict[str, Course] = {}

    def take(self, name: str, beat: Beat, now: float) -> None:
        """What a worker says of itself."""
        course = self._courses.get(name)
        if course is None or course.beat.epoch != beat.epoch:
            self._courses[name] = Course(beat, now, now)
            return
        if beat.step > course.beat.step:
            course.recent_s.append((now - course.step_at) / (beat.step - course.beat.step))
            course.step_at = now
        if (beat.moves, beat.waits) != (course.beat.moves, course.beat.waits):
            course.moved_at = now
        course.beat = beat

    def forgive(self, stall_s: float, now: float) -> None:
        """Nobody was watched for so long."""
        for course in self._courses.values():
            course.moved_at = min(now, course.moved_at + stall_s)

    def hung(self, others: Mapping[str, int], now: float) -> set[str]:
        """The workers that hang.

        Args:
            others: every member that counts, with the epoch it should be in.
            now: the time, seconds.
        """
        courses = {name: self._courses.get(name) for name in others}
        if any(course is None or course.beat.epoch != others[name] for name, course in courses.items()):
            return set()
        known = {name: course for name, course in courses.items() if course is not None}
        limit_s = max(self.floor_s, *(_TIMES_USUAL * course.usual_s for course in known.values()), 0.0)
        if any(now - course.moved_at <= limit_s for course in known.values()):
            return set()
        busy = {name for name, course in known.items() if not course.beat.waits}
        if len(busy) == len(known) or any(known[name].beat.phase in OUTSIDE for name in busy):
            return set()
        return busy
