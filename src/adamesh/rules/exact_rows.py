"""Dense Adam, done later: what a row missed is replayed, step by step, before anybody reads it.

A row that is not touched has a gradient of zero, and dense Adam moves it all the same. That update needs nothing but
the row's own state and the hyper-parameters of the step, so it can wait until the row is read.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.rules.base import Hyper, Operands, Rule
from adamesh.rules.rows import RowRule, Rows

__all__ = ["ExactRows", "Missed"]

_BLOCK = 1 << 16
"""Elements replayed at a time, so that all steps happen in the CPU's cache."""


@dataclass(frozen=True)
class Missed:
    """A step of a table that some of its rows have yet to make."""

    number: int
    """The table's committed updates, that one included."""
    hyper: Hyper


@dataclass(frozen=True)
class ExactRows(RowRule):
    """An elementwise rule on rows that are up to date."""

    rule: Rule

    def state_names(self, hyper: Hyper) -> Sequence[str]:
        return self.rule.state_names(hyper)

    def check(self, hyper: Hyper) -> None:
        self.rule.check(hyper)

    def update(self, rows: Rows, hyper: Hyper) -> None:
        self._step(rows.params, rows.grads, rows.state, rows.step, hyper)

    def replay(self, params: Tensor, state: Mapping[str, Tensor], seen: Tensor, missed: Sequence[Missed]) -> None:
        """Make the missed steps, in place.

        Args:
            params: [rows, width].
            state: each [rows, width].
            seen: [rows], ascending: the number of the last step that each row has made.
            missed: by number, ascending.
        """
        if not params.numel():
            return
        missed = missed[bisect_right(missed, int(seen[0]), key=lambda step: step.number) :]
        numbers = torch.tensor([step.number for step in missed], dtype=seen.dtype, device=seen.device)
        length = max(1, _BLOCK // params.shape[1])
        zeros = torch.zeros_like(params[:length])
        for start in range(0, len(params), length):
            block = slice(start, start + length)
            p, moments = params[block], {name: tensor[block] for name, tensor in state.items()}
            # Rows are sorted, so that those that miss a step are the first ones: a slice, no copy.
            late = torch.searchsorted(seen[block].contiguous(), numbers, right=False).tolist()
            for step, n in zip(missed, late, strict=True):
                if n:
                    head = {name: tensor[:n] for name, tensor in moments.items()}
                    self._step(p[:n], zeros[:n], head, step.number, step.hyper)

    def _step(self, params: Tensor, grads: Tensor, state: Mapping[str, Tensor], number: int, hyper: Hyper) -> None:
        done = torch.tensor(float(number - 1), dtype=torch.float32, device=params.device)
        self.rule.update(Operands([params], [grads], {name: [t] for name, t in state.items()}, [done]), hyper)
