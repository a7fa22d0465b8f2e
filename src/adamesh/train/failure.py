"""What went wrong in which worker, in one line: written by the worker, read by whoever started it.

The record goes to the file that torchrun's launcher names in ``TORCHELASTIC_ERROR_FILE``, in torchrun's own
JSON format with our fields beside its own, so that a foreign torchrun understands it too.
"""

import json
import re
import signal
import sysconfig
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from adamesh.errors import CommunicationError, ConfigurationError, DataError, StepOutOfSync
from adamesh.train.files import write_whole

__all__ = ["Failure", "describe", "exited", "read", "root_cause", "write"]

_PACKAGE = Path(__file__).resolve().parent.parent
_LONGEST_MESSAGE = 600


@dataclass(frozen=True)
class Failure:
    """How one worker ended."""

    rank: int
    what: str
    """``failed``, ``was killed (SIGKILL)`` or ``exited with code 3``."""
    time_s: float
    """When, on the clock of its machine."""
    step: int | None = None
    """The training step it was in; None before the first."""
    kind: str = ""
    """The exception's class."""
    message: str = ""
    """The exception's message, on one line."""
    place: str = ""
    """``file.py:43``, where in adamesh or in the user's own code it was raised."""
    consequence: bool = False
    """Whether this only says that another worker failed."""
    configuration: bool = False
    """Whether it is the user's settings or data that are wrong, found before training began."""

    def line(self) -> str:
        """One line for a person: rank, step, error, place."""
        if self.configuration:
            return self.message
        where = "" if self.step is None else f" at step {self.step}"
        said = ": ".join(filter(None, [f"worker {self.rank} {self.what}{where}", self.kind, self.message]))
        return f"{said} ({self.place})" if self.place else said


def describe(error: BaseException, *, rank: int, time_s: float) -> Failure:
    """The record of an exception that ended the worker ``rank``; the trainer has noted the step in it."""
    notes = (re.fullmatch(r"in step (\d+)", note) for note in getattr(error, "__notes__", ()))
    step = next((int(note[1]) for note in notes if note), None)
    return Failure(
        rank=rank,
        what="failed",
        time_s=time_s,
        step=step,
        kind=type(error).__name__,
        message=_one_line(str(error)),
        place=_place(error),
        consequence=_is_consequence(error),
        configuration=step is None and isinstance(error, ConfigurationError | DataError),
    )


def write(failure: Failure, path: Path, trace: str) -> None:
    """Leave the record, and the traceback, where the launcher looks for it."""
    extra = {"py_callstack": trace, "timestamp": str(int(failure.time_s)), "adamesh": asdict(failure)}
    record = {"message": {"message": f"{failure.kind}: {failure.message}", "extraInfo": extra}}
    write_whole(path, json.dumps(record))


def read(record: Mapping[str, object]) -> Failure | None:
    """The record in a launcher's error file; None where another program wrote it."""
    message = record.get("message")
    extra = message.get("extraInfo") if isinstance(message, dict) else None
    ours = extra.get("adamesh") if isinstance(extra, dict) else None
    return Failure(**ours) if isinstance(ours, dict) else None


def recorded(path: Path) -> Failure | None:
    """The record that a worker has left in its error file; None where there is none, or another program wrote it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return read(record) if isinstance(record, dict) else None


def exited(rank: int, exit_code: int, time_s: float) -> Failure:
    """The record of a worker that left no other: negative exit codes are signals, as in `subprocess`."""
    if exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        hint = "by hand, or by the system because memory ran out" if name == "SIGKILL" else ""
        return Failure(rank, f"was killed ({name})", time_s, message=hint)
    return Failure(rank, f"exited with code {exit_code}", time_s)


def root_cause(failures: list[Failure], grace_s: float) -> Failure:
    """The failure that brought the others down.

    When one worker fails, the others lose their peer, and the launcher asks them to end (SIGTERM) and
    kills those that have not after ``grace_s``. So: the earliest exception that is no consequence; else the
    earliest death that is not the launcher's doing; else the earliest.
    """
    first_s = min(failure.time_s for failure in failures)

    def suspicion(failure: Failure) -> tuple[int, float]:
        by_launcher = failure.what == "was killed (SIGTERM)" or (
            failure.what == "was killed (SIGKILL)" and failure.time_s - first_s > 0.8 * grace_s
        )
        if by_launcher:
            return 3, failure.time_s
        if failure.consequence:
            return 2, failure.time_s
        return (0 if failure.kind else 1), failure.time_s

    return min(failures, key=suspicion)


def _is_consequence(error: BaseException) -> bool:
    if isinstance(error, CommunicationError | StepOutOfSync):
        return True
    # torch's own collectives (evaluation, user code) say it in words, as a RuntimeError or a subclass of it.
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _place(error: BaseException) -> str:
    """The innermost line that is adamesh's or the user's, not Python's, torch's or another package's."""
    frames = traceback.extract_tb(error.__traceback__)
    named = [frame for frame in frames if not frame.filename.startswith("<")]
    ours = [frame for frame in named if not _is_library(Path(frame.filename))]
    for frame in reversed(ours or named):
        return f"{_short(Path(frame.filename))}:{frame.lineno}"
    return ""


def _is_library(file: Path) -> bool:
    if file.is_relative_to(_PACKAGE):
        return False
    folders = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return any(file.is_relative_to(folder) for folder in folders)


def _short(file: Path) -> str:
    for base in (_PACKAGE, Path.cwd()):
        if file.is_relative_to(base):
            return str(file.relative_to(base))
    return str(file)


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST_MESSAGE else flat[: _LONGEST_MESSAGE - 4] + " ..."
