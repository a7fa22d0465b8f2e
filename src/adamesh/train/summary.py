"""summary.json: how a run ended, and the same as a table."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from adamesh.train.events import Event
from adamesh.train.fate import PushingReport
from adamesh.train.files import json_line, write_whole
from adamesh.train.readable import readable_bytes

__all__ = ["Summary"]


@dataclass(frozen=True)
class Summary:
    """The end of a run. Totals are over all its starts, rates of bytes over the last."""

    task: str
    world_size: int
    steps: int
    samples: int
    final_loss: float | None
    """Training loss of the last step; None before the first."""
    eval: Mapping[str, float]
    """The last evaluation's metrics; empty before the first."""
    seconds: float
    """In the training loop, evaluations and checkpoints included."""
    samples_per_s: float
    """Over the time spent in steps."""
    data_wait_share: float
    """Of the time spent in steps, spent waiting for samples; the mean over workers."""
    state_bytes_per_rank: int
    """The largest over workers."""
    bytes_up_per_step: float
    """The mean over workers, as is the next."""
    bytes_down_per_step: float
    param_count: int
    frozen_after: int | None
    """Updates after which second moments were frozen, if the rule does that and has."""
    events: list[Event]
    config_hash: str
    ledger: Mapping[str, Any] | None
    """Which samples the run has trained on: ``steps``, ``samples`` and ``digest`` (`adamesh.data.ledger`); None where
    workers go at their own speed, and what is pushed may be rejected."""
    best: Mapping[str, Any]
    """The evaluation that was the best: ``metric``, ``value`` and ``step``."""
    stopped: Literal["finished", "tolerance", "time", "early-stop", "interrupted"]
    asynchronous: PushingReport | None = None
    """How pushes fared, where workers go at their own speed."""

    def write(self, path: Path) -> None:
        write_whole(path, json_line(asdict(self)) + "\n")

    def rows(self) -> list[tuple[str, str]]:
        """(label, value) for people."""
        evaluation = [(f"test {name.replace('_', ' ')}", f"{value:.4f}") for name, value in self.eval.items()]
        best = self.best["value"]
        return [
            ("task", self.task),
            ("workers", str(self.world_size)),
            ("steps", f"{self.steps:,} ({self.stopped})"),
            ("samples", f"{self.samples:,}"),
            ("training loss", "none" if self.final_loss is None else f"{self.final_loss:.4f}"),
            *evaluation,
            *([] if best is None else [(f"best {self.best['metric']}", f"{best:.4f} at step {self.best['step']:,}")]),
            ("time", f"{self.seconds:.1f} s"),
            ("samples/s", f"{self.samples_per_s:,.0f}"),
            ("waiting for data", f"{self.data_wait_share:.1%}"),
            ("parameters", f"{self.param_count:,}"),
            ("state per worker", readable_bytes(self.state_bytes_per_rank)),
            ("sent up per step", readable_bytes(self.bytes_up_per_step)),
            ("sent down per step", readable_bytes(self.bytes_down_per_step)),
            *([] if self.frozen_after is None else [("frozen after", f"{self.frozen_after:,} updates")]),
            *([] if self.asynchronous is None else self.asynchronous.rows()),
            *([] if self.ledger is None else [("ledger", str(self.ledger["digest"]))]),
            ("events", str(len(self.events))),
        ]
