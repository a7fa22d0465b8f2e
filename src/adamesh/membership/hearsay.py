"""What one sentinel knows of the others from what it has heard of them, and what is to be thought of their silence."""

from collections.abc import Callable, Collection, Iterable

from adamesh.membership.kin import is_stopped, this_process
from adamesh.membership.messages import Beat
from adamesh.membership.progress import STARTING, Progress
from adamesh.membership.settings import Patience
from adamesh.membership.silence import Silence

__all__ = ["Hearsay"]


class Hearsay:
    """Of the members of an epoch; `enter` says who they are.

    Args:
        patience: how soon others are given up.
    """

    def __init__(self, patience: Patience) -> None:
        self.process = this_process()
        """This one, for the others."""
        self._patience = patience
        self._silences: dict[str, Silence] = {}
        self._beats: dict[str, Beat] = {}
        self._refused: set[str] = set()
        self._progress = Progress(patience.hang_s)

    def enter(self, names: Collection[str], now: float) -> None:
        """From now on these are the members; what is known of those who were so before stays."""
        known = self._silences
        self._silences = {name: known.get(name) or Silence(self._patience.silence_s, now) for name in names}
        self._beats = {name: beat for name, beat in self._beats.items() if name in self._silences}
        self._refused &= self._silences.keys()

    # -- what is heard -------------------------------------------------------------------------------------------

    def hear(self, name: str, now: float) -> None:
        """Something has come from somebody."""
        if name in self._silences:
            self._silences[name].hear(now, usual=not self._is_starting(name))
            self._refused.discard(name)

    def take(self, name: str, beat: Beat, now: float) -> None:
        """A member says how far it is."""
        self._beats[name] = beat
        self._progress.take(name, beat, now)

    def compare_with(self, name: str, beat: Beat, now: float) -> None:
        """This worker itself is so far."""
        self._progress.take(name, beat, now)

    def refuse(self, name: str) -> None:
        """The host of a member answers that nobody is where it was."""
        self._refused.add(name)

    def forgive(self, stall_s: float, now: float, *, usual: bool) -> None:
        """This process was held up for so long, in its ``usual`` work or not: nobody could be heard."""
        for silence in self._silences.values():
            silence.forgive(stall_s, now, usual=usual)
        self._progress.forgive(stall_s, now)

    # -- what is thought of it -----------------------------------------------------------------------------------

    @property
    def anybody_leaves(self) -> bool:
        """Whether a member asks to go. From any thread."""
        return any(beat.leaving for beat in list(self._beats.values()))

    def line_of(self, name: str, key: str) -> str | None:
        """What a member has said about its end of a group that is being built."""
        beat = self._beats.get(name)
        return None if beat is None else beat.lines.get(key)

    def silent(self, names: Iterable[str], now: float) -> set[str]:
        """Those not heard for longer than can be put down to a slow machine or network."""
        return {name for name in names if self._is_silent(name, now)}

    def dead(self, names: Iterable[str], listens_to: Callable[[str], bool]) -> list[str]:
        """Those dead for certain: they were heard until their connections ended, and nobody is where they were.

        Args:
            names: those who count.
            listens_to: whether more of a member's words may still come.
        """
        return [name for name in names if name in self._refused and not listens_to(name)]

    def hung(self, names: Iterable[str], epoch: int, now: float) -> set[str]:
        """Those that all the others wait for, and that do nothing."""
        return self._progress.hung(dict.fromkeys(names, epoch), now)

    def _is_silent(self, name: str, now: float) -> bool:
        silence, beat = self._silences[name], self._beats.get(name)
        if beat is not None and silence.of(now) > self._patience.silence_s and is_stopped(beat.process, self.process):
            return True
        return silence.lasts(now, self._patience.start_s if self._is_starting(name) else 0.0)

    def _is_starting(self, name: str) -> bool:
        """Whether a member has only just started, and may load programs, which holds up everything else."""
        beat = self._beats.get(name)
        return beat is None or beat.phase == STARTING
