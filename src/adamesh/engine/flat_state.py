"""torch's L-BFGS state, which is of all parameters as one vector, cut by parameter and element range, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adamesh.engine.runs import HeldRun, PieceSource, StateSource
from adamesh.errors import CheckpointError, LayoutError

__all__ = ["FlatState"]

Named = Sequence[tuple[str, nn.Parameter]]

_VECTORS = ("d", "prev_flat_grad")
_HISTORIES = ("old_dirs", "old_stps")
_COUNTS = ("func_evals", "n_iter")
_NUMBERS = ("t", "H_diag", "prev_loss")


@dataclass(frozen=True)
class FlatState:
    """The state's vectors over all parameters, and its numbers, by names like "d" and "old_dirs.3"."""

    vectors: dict[str, Tensor]
    scalars: dict[str, float]

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "FlatState":
        """Of what ``torch.optim.LBFGS`` keeps; its scratch space ("al") is left out."""
        vectors = {key: state[key] for key in _VECTORS if state.get(key) is not None}
        for key in _HISTORIES:
            vectors |= {f"{key}.{i}": vector for i, vector in enumerate(state.get(key) or [])}
        scalars = {key: float(state[key]) for key in (*_COUNTS, *_NUMBERS) if state.get(key) is not None}
        scalars |= {f"ro.{i}": float(ro) for i, ro in enumerate(state.get("ro") or [])}
        return cls(vectors, scalars)

    def torchs(self) -> dict[str, Any]:
        """As ``torch.optim.LBFGS`` keeps it; the vectors that it writes into are copies."""
        state: dict[str, Any] = {key: int(self.scalars[key]) for key in _COUNTS if key in self.scalars}
        state |= {key: self.vectors[key].clone() for key in _VECTORS if key in self.vectors}
        if not self.vectors:
            return state
        like = next(iter(self.vectors.values()))
        length = sum(key.startswith("ro.") for key in self.scalars)
        for key in _HISTORIES:
            state[key] = [self.vectors[f"{key}.{i}"] for i in range(length)]
        # Numbers of the vectors' precision, as torch computed them; only the step length may be Python's own.
        state["ro"] = [like.new_tensor(self.scalars[f"ro.{i}"]) for i in range(length)]
        state["H_diag"] = like.new_tensor(self.scalars["H_diag"])
        return state | {key: self.scalars[key] for key in ("t", "prev_loss")}

    @property
    def num_bytes(self) -> int:
        """Of the vectors."""
        return sum(vector.numel() * vector.element_size() for vector in self.vectors.values())

    def runs(self, named: Named, rank: int, size: int) -> list[HeldRun]:
        """The ``rank``-th of ``size`` cuts of every parameter's part of the vectors."""
        runs, offset = [], 0
        for name, numel in _sizes(named):
            start, stop = (numel * rank // size, numel * (rank + 1) // size)
            if stop > start and self.vectors:
                cut = slice(offset + start, offset + stop)
                runs.append(HeldRun(name, start, stop, {k: v[cut].clone() for k, v in self.vectors.items()}))
            offset += numel
        return runs

    @staticmethod
    def fetch(source: StateSource, named: Named) -> PieceSource:
        """Read a saved state whole.

        Raises:
            CheckpointError: it is not of L-BFGS, or incomplete.
        """
        first = named[0][0]
        scalars = dict(source.scalars(first))
        steps = {name: source.steps(name) or 0 for name, _ in named}
        if not scalars and not any(steps.values()):
            return PieceSource([], steps)
        length = sum(key.startswith("ro.") for key in scalars)
        whole = [*_VECTORS, *(f"{key}.{i}" for key in _HISTORIES for i in range(length))]
        wanted = whole if "H_diag" in scalars else []  # else it was at the optimum before its first iteration
        runs = []
        for name, numel in _sizes(named):
            if numel and ("n_iter" not in scalars or sorted(source.keys(name)) != sorted(wanted)):
                raise CheckpointError(
                    f"the saved state of {name!r} is {sorted(source.keys(name))}, which is not what L-BFGS keeps: load "
                    "it into an optimizer of the rule that saved it"
                )
            try:
                runs.append(HeldRun(name, 0, numel, {key: source.read(name, key, 0, numel) for key in wanted}))
            except LayoutError as error:
                raise CheckpointError(str(error)) from error
        return PieceSource(runs, steps, {first: scalars})

    @classmethod
    def restored(cls, source: StateSource, named: Named) -> "FlatState | None":
        """From what :meth:`fetch` gave; None where nothing had been kept yet."""
        scalars = dict(source.scalars(named[0][0]))
        if not scalars:
            return None
        sizes = [(name, numel) for name, numel in _sizes(named) if numel]
        keys = source.keys(sizes[0][0])
        device = named[0][1].device
        parts = {key: [source.read(name, key, 0, numel) for name, numel in sizes] for key in keys}
        return cls({key: torch.cat(pieces).to(device) for key, pieces in parts.items()}, scalars)


def _sizes(named: Named) -> list[tuple[str, int]]:
    """Elements of each parameter; a complex one has two real ones each."""
    return [(name, param.numel() * (2 if param.is_complex() else 1)) for name, param in named]
