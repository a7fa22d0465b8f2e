"""Schedules' names in configuration files, taken apart: ``diloco-64-streaming-4-delay-2`` and the like."""

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["SYNC_EXAMPLES", "SyncName", "parse_sync"]

SYNC_EXAMPLES = (
    "every-step",
    "every-16",
    "des-loc-32",
    "diloco-64",
    "diloco-64-streaming-4-delay-2",
    "stale-1",
    "async-8",
)
"""The numbers stand for any."""

_NUMBER = r"[1-9]\d{0,8}"
_PATTERNS = {
    "every-step": "every-step",
    "every": rf"every-(?P<h>{_NUMBER})",
    "des-loc": rf"des-loc-(?P<h>{_NUMBER})",
    "diloco": rf"diloco-(?P<h>{_NUMBER})(-streaming-(?P<fragments>{_NUMBER}))?(-delay-(?P<delay>{_NUMBER}))?",
    "stale": r"stale-(?P<delay>\d{1,3})",
    "async": r"async(-(?P<staleness>\d{1,9}))?",
}

Kind = Literal["every-step", "every", "des-loc", "diloco", "stale", "async"]


@dataclass(frozen=True)
class SyncName:
    """A schedule's name, taken apart."""

    kind: Kind
    h: int = 1
    fragments: int = 1
    delay: int = 0
    staleness: int | None = None

    @property
    def is_every_step(self) -> bool:
        """Whether each step is the exact one."""
        return self.kind not in ("diloco", "async") and self.h == 1 and self.delay == 0


def parse_sync(name: str) -> SyncName | None:
    """What a name says; None if it is none."""
    for kind, pattern in _PATTERNS.items():
        match = re.fullmatch(pattern, name)
        if match is not None:
            numbers = {key: int(value) for key, value in match.groupdict().items() if value is not None}
            return SyncName(kind, **numbers)  # type: ignore[arg-type]
    return None
