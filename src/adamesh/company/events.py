"""What has become of the members of a company."""

from dataclasses import dataclass

__all__ = ["Change"]


@dataclass(frozen=True)
class Change:
    """Somebody has come or gone."""

    name: str
    how: str
    """"killed", "silent" (not heard any more: stopped, or cut off), "hung", "left" or "joined"."""
    epoch: int
    """The first with this change."""
    step: int
    """Where this worker was."""
    seconds: float
    """From the first sign that this worker had to the meeting of all in the new epoch."""
    left: int
    """Members after it."""
    reason: str
    """What this worker said when it regrouped."""
