"""Owners: each rank keeps master weights and optimizer state for its shard of every bucket, and updates it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.comm.base import chunk
from adamesh.engine.bucket import LiveBucket, LiveSlot
from adamesh.layout import Layout, Piece
from adamesh.rules.base import Hyper, Operands, Rule

__all__ = ["OwnedPiece", "Shard"]


@dataclass(frozen=True)
class OwnedPiece:
    """One parameter's part of a shard: views into the master and the state, and its update count.

    A *witness* is the empty part of a parameter that this rank owns nothing of.
    """

    slot: LiveSlot
    place: Piece
    master: Tensor
    state: Mapping[str, Tensor]
    step: Tensor
    scalars: Mapping[str, Tensor]
    """The rule's own numbers of the parameter."""


class Shard:
    """One rank's slice of one bucket, as its owner keeps it, or who mirrors it.

    The master is the slice of ``param_N`` itself where that has full precision and is sent as it is; else a copy.

    Args:
        bucket: the bucket.
        layout: which parameters' elements are where.
        owner: whose slice.
        state_names: the rule's state tensors.
        scalars: the rule's numbers of each parameter of the bucket.
        separate: keep a master of its own, because replicas get less than the master, or because it is a mirror.
    """

    def __init__(
        self,
        bucket: LiveBucket,
        layout: Layout,
        owner: int,
        state_names: tuple[str, ...],
        scalars: Mapping[int, Mapping[str, Tensor]],
        *,
        separate: bool,
    ) -> None:
        self.bucket = bucket
        self.owner = owner
        self.view_S = chunk(bucket.param_N, owner, layout.num_shards)
        self.separate = separate
        self.master_S = self.view_S.to(bucket.state_dtype, copy=True) if separate else self.view_S
        self.state_S = {name: torch.zeros_like(self.master_S) for name in state_names}
        self._scalars = scalars
        by_param = {slot.place.param: slot for slot in bucket.slots}
        self.pieces = tuple(
            self._piece(by_param[place.param], place) for place in layout.pieces(bucket.place.index, owner)
        )
        # Of a parameter that others own, the rule's scalars must stay up to date here as well.
        strangers = set(by_param) - {piece.place.param for piece in self.pieces} if any(scalars.values()) else set()
        self.witnesses = tuple(self._piece(by_param[param], Piece(param, 0, 0, 0)) for param in sorted(strangers))

    def _piece(self, slot: LiveSlot, place: Piece) -> OwnedPiece:
        run = slice(place.offset, place.offset + place.stop - place.start)
        state = {name: tensor_S[run] for name, tensor_S in self.state_S.items()}
        step = torch.tensor(float(slot.steps), dtype=torch.float32, device=self.master_S.device)
        return OwnedPiece(slot, place, self.master_S[run], state, step, self._scalars[place.param])

    @property
    def state_bytes(self) -> int:
        """Moments, and the master where it is kept apart."""
        tensors = [*self.state_S.values(), *([self.master_S] if self.separate else [])]
        return sum(t.numel() * t.element_size() for t in tensors)

    def magnitude(self, state_name: str) -> Tensor:
        """The sum of a state tensor's absolute values, in float64."""
        total: Tensor = torch.linalg.vector_norm(self.state_S[state_name], 1, dtype=torch.float64)
        return total

    def refresh(self, slot: LiveSlot) -> None:
        """A parameter was changed from outside, on all ranks: take its new value as the master's.

        Where the value is still the master's rounding, the master stays: writing a parameter's own value back (a
        loaded model, an average swapped in and out) loses no precision.
        """
        for piece in self.pieces:
            if piece.slot is slot and self.separate:
                value = slot.value[piece.place.start : piece.place.stop]
                kept = piece.master.to(value.dtype) == value
                piece.master.copy_(torch.where(kept, piece.master, value.to(piece.master.dtype)))

    def update(self, rule: Rule, hyper: Hyper, used: set[int], coefficient: float, reduced_S: Tensor) -> None:
        """One step of the rule on the pieces of the parameters that some rank used.

        Args:
            rule: the update.
            hyper: the bucket's parameter group.
            used: parameter numbers.
            coefficient: the clipping coefficient, 1.0 where nothing is clipped.
            reduced_S: the slice's mean gradient; overwritten.
        """
        if coefficient != 1.0:
            # Where there was nobody to sum with, this is p.grad's own memory, which is not ours to scale.
            alone = self.bucket.grad_N is not None and reduced_S.data_ptr() == self.bucket.send_N.data_ptr()
            reduced_S = reduced_S * coefficient if alone else reduced_S.mul_(coefficient)
        self.apply(rule, hyper, used, reduced_S)

    def apply(self, rule: Rule, hyper: Hyper, used: set[int], grad_S: Tensor) -> None:
        """One step of the rule with this gradient of the slice, on the pieces of the parameters in ``used``."""
        moving = [piece for piece in (*self.pieces, *self.witnesses) if piece.place.param in used]
        if not moving:
            return
        grads = [grad_S[p.place.offset : p.place.offset + p.place.stop - p.place.start] for p in moving]
        names = rule.state_names(hyper)
        rule.update(
            Operands(
                params=[piece.master for piece in moving],
                grads=grads,
                state={name: [piece.state[name] for piece in moving] for name in names},
                steps=[piece.step for piece in moving],
                scalars={name: [piece.scalars[name] for piece in moving] for name in rule.scalars},
            ),
            hyper,
        )
