"""How long a silence has to be before it means something: learnt for each member from how regularly it is heard."""

__all__ = ["Silence"]

_TIMES_WORST = 3.0
_TIMES_FLOOR = 4.0
_FADING = 0.998
"""Of the worst gap, with each message, of which there are some twenty a second: it counts for a minute or two."""


class Silence:
    """When one member was last heard, and whether it should have been heard since.

    The limit is `_TIMES_WORST` times the worst recent gap between messages, or delay of the listener itself, at least
    ``floor_s`` and at most `_TIMES_FLOOR` times that.

    Args:
        floor_s: the shortest silence that is suspicious, seconds.
        now: the time, seconds.
    """

    def __init__(self, floor_s: float, now: float) -> None:
        self.floor_s = floor_s
        self.last = now
        self._worst = 0.0

    def hear(self, now: float, *, usual: bool = True) -> None:
        """Something has come; ``usual``: from somebody who trains, rather than loads programs."""
        if usual:
            self._worst = max(now - self.last, self._worst * _FADING)
        self.last = now

    def forgive(self, stall_s: float, now: float, *, usual: bool = True) -> None:
        """The listener itself was held up for so long: if in its ``usual`` work, the others may be as well."""
        if usual:
            self._worst = max(stall_s, self._worst)
        self.last = min(now, self.last + stall_s)

    @property
    def limit_s(self) -> float:
        """The silence from which on the member is suspected, seconds."""
        return min(max(self.floor_s, _TIMES_WORST * self._worst), _TIMES_FLOOR * self.floor_s)

    def of(self, now: float) -> float:
        """For how long it was not heard, seconds."""
        return now - self.last

    def lasts(self, now: float, at_least_s: float = 0.0) -> bool:
        """Whether the member has been silent for too long, and for at least so long."""
        return self.of(now) > max(self.limit_s, at_least_s)
