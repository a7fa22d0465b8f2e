"""What a check of the nodes has found: who was there, how each reached each other, what is wrong."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from adamesh.train.files import json_line, write_whole

__all__ = ["REPORT", "Card", "Finding", "Leg", "NodesReport"]

REPORT = "nodes.json"
"""The report's name in a folder."""


@dataclass(frozen=True)
class Card:
    """How a node introduces itself."""

    rank: int
    host: str
    """The machine's own name."""
    machine: str
    """The same for two processes that share a machine and its network."""
    address: str
    """Where others reach it."""
    port: int
    interface: str
    chosen_by: str
    """Why it is this interface."""
    problem: str | None
    """Why a run's own collectives would use another one, and fail."""
    torch: str
    adamesh: str
    python: str

    @property
    def name(self) -> str:
        """As findings call it."""
        return f"node {self.rank} ({self.host}, {self.address})"


@dataclass(frozen=True)
class Leg:
    """One direction between two nodes."""

    sender: int
    receiver: int
    failure: str | None = None
    """Why there are no figures."""
    latency_s: float | None = None
    """There and back, median."""
    least_latency_s: float | None = None
    offset_s: float | None = None
    """How far the receiver's clock is ahead of the sender's."""
    mbit: float | None = None
    """Mbit/s over one connection, median."""
    least_mbit: float | None = None
    most_mbit: float | None = None


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and what to do."""

    level: Literal["failure", "warning"]
    """With a failure, a run would fail."""
    text: str


@dataclass(frozen=True)
class NodesReport:
    """All of it."""

    expected: int
    """Nodes, or processes where no machine was named."""
    missing: tuple[int, ...]
    cards: tuple[Card, ...]
    legs: tuple[Leg, ...]
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether a run on these nodes would fail."""
        return any(finding.level == "failure" for finding in self.findings)

    def dumps(self) -> str:
        """One line of JSON."""
        return json_line(asdict(self) | {"verdict": "failed" if self.failed else "passed"})

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        write_whole(folder / REPORT, self.dumps() + "\n")

    @classmethod
    def load(cls, folder: Path) -> "NodesReport":
        """What `save` has written."""
        record: Mapping[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return cls(
            record["expected"],
            tuple(record["missing"]),
            tuple(Card(**card) for card in record["cards"]),
            tuple(Leg(**leg) for leg in record["legs"]),
            tuple(Finding(**finding) for finding in record["findings"]),
            record["seconds"],
        )
