"""State as runs of flattened parameters: what saving takes from ranks, and what restoring reads from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from adamesh.engine.table import ROW_KEYS
from adamesh.reshard import Range, plan_copies

__all__ = ["HeldRun", "PieceSource", "StateSource"]


@dataclass(frozen=True)
class HeldRun:
    """Elements ``start:stop`` of one flattened parameter's state, as one rank holds them (flat, real)."""

    name: str
    start: int
    stop: int
    tensors: Mapping[str, Tensor]
    width: int = 1
    """Elements to a number in those of the tensors that have one number a row (`adamesh.engine.table.ROW_KEYS`)."""

    def range(self, source: int, key: str) -> Range:
        """What of a state tensor this is, in that tensor's own numbers."""
        unit = self.width if key in ROW_KEYS else 1
        return Range(source, self.start // unit, self.stop // unit)


class StateSource(Protocol):
    """Where restoring reads from."""

    @property
    def sync(self) -> Mapping[str, Any]:
        """What is to be known of islands that step alone; empty of others."""

    def steps(self, name: str) -> int | None:
        """Committed updates of a parameter; None if the source knows no state of it."""

    def scalars(self, name: str) -> Mapping[str, float]:
        """The rule's own numbers of a parameter."""

    def keys(self, name: str) -> Sequence[str]:
        """The state tensors there are of a parameter."""

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        """Numbers ``start:stop`` of one state tensor, flat and real. Raises LayoutError if some are missing."""


@dataclass
class PieceSource:
    """State held as runs, from any number of ranks."""

    runs: Sequence[HeldRun]
    counts: Mapping[str, int]
    numbers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The rule's scalars, by parameter name."""
    sync: Mapping[str, Any] = field(default_factory=dict)
    """See `StateSource.sync`."""
    _by_name: dict[str, list[HeldRun]] = field(init=False)

    def __post_init__(self) -> None:
        self._by_name = {}
        for run in self.runs:
            self._by_name.setdefault(run.name, []).append(run)

    def steps(self, name: str) -> int | None:
        return self.counts.get(name)

    def scalars(self, name: str) -> Mapping[str, float]:
        return self.numbers.get(name, {})

    def keys(self, name: str) -> Sequence[str]:
        return tuple(dict.fromkeys(key for run in self._by_name.get(name, []) for key in run.tensors))

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        runs = [run for run in self._by_name.get(name, []) if key in run.tensors]
        copies = plan_copies((run.range(i, key) for i, run in enumerate(runs)), start, stop, name)
        parts = [runs[c.source].tensors[key][c.source_start : c.source_stop] for c in copies]
        return parts[0] if len(parts) == 1 else torch.cat([*parts]) if parts else torch.empty(0, device="cpu")
