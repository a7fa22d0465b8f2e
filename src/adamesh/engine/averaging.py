"""Averages over islands: of parameters and moments, exactly, between the owners of the same slices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.comm.base import Communicator
from adamesh.engine.bucket import LiveSlot
from adamesh.engine.meter import Meter
from adamesh.engine.owner import OwnedPiece, Shard
from adamesh.engine.passage import Departure, ExactPassage
from adamesh.rules.base import Hyper, Moment, Rule
from adamesh.sync.base import PARAMS

__all__ = ["Averaging"]

_VALUE = Moment(PARAMS)


@dataclass(frozen=True)
class Bound:
    """How large a first moment may be beside the island's own second: as large as Adam's own gradients could make it.

    |m| / (1-b1^t) <= r sqrt(v / (1-b2^t)), r = max(1, (1-b1) / sqrt(1-b2)) (Kingma & Ba 2015, section 2.1). The mean of
    other islands' momentum may be far beyond it, where this one has seen next to no gradient (a rare word, a dead
    pixel): without the bound, that element would go off by m / eps.
    """

    second_S: Tensor
    decays: tuple[float, float]

    def keep(self, piece: OwnedPiece, first: Tensor) -> Tensor:
        """The piece of a first moment, within the bound."""
        (beta1, beta2), count = self.decays, float(piece.step)
        if beta2 >= 1.0 or not count:
            return first
        ratio = max(1.0, (1.0 - beta1) / math.sqrt(1.0 - beta2))
        scale = ratio * (1.0 - beta1**count) / math.sqrt(1.0 - beta2**count)
        most = _of(self.second_S, piece).sqrt().mul_(scale)
        return torch.minimum(torch.maximum(first, -most), most)


@dataclass(frozen=True)
class Average:
    """One tensor's way to its mean."""

    shard: Shard
    moment: Moment
    target_S: Tensor
    pieces: Sequence[OwnedPiece]
    """Those that some island has moved since they were last averaged: the others are alike and keep their bits."""
    factors: Mapping[int, tuple[float, float]]
    """By parameter, where islands have made different numbers of updates: what makes of this island's moment its share
    of the bias-corrected mean, and of that this island's moment again."""
    passage: ExactPassage
    within: "Bound | None" = None
    """Of a first moment whose second is not averaged along with it."""

    def scaled(self, tensor_S: Tensor, which: int) -> Tensor:
        """The tensor times the factors of each parameter; a copy if there are some."""
        if not self.factors:
            return tensor_S
        scaled_S = tensor_S.clone()
        for piece in self.shard.pieces:
            if piece.place.param in self.factors:
                _of(scaled_S, piece).mul_(self.factors[piece.place.param][which])
        return scaled_S


class Averaging:
    """Takes means over islands of this rank's slices.

    Args:
        replicate: the owners of the same slices on all islands.
        shards: this rank's slices, by bucket.
        rule: knows what its state is.
        meter: counts bytes and waiting.
    """

    def __init__(self, replicate: Communicator, shards: Mapping[int, Shard], rule: Rule, meter: Meter) -> None:
        self.known: dict[int, dict[str, list[int]]] = {}
        """What (0: parameters, 1 and 2: moments) -> parameter's name -> every island's update count when they were last
        averaged."""
        self._replicate = replicate
        self._shards = shards
        self._rule = rule
        self._meter = meter
        self._under_way: list[Average] = []
        self._counts: Mapping[str, list[int]] = {}

    def refresh(self, slot: LiveSlot) -> None:
        """A parameter was changed from outside: islands may differ, whatever the counts say."""
        self.known.setdefault(PARAMS, {})[slot.name] = []

    def exchange(
        self, what: Sequence[int], step: int, counts: Mapping[str, list[int]], hypers: Sequence[Hyper]
    ) -> tuple[float, float]:
        """Bring the means here. Collective between islands.

        Args:
            what: parameters (0), first moments (1), second moments (2).
            step: the step's number.
            counts: every island's number of updates, by parameter's name.
            hypers: the parameter groups.

        Returns:
            Sums of squares of this rank's parameters' distance from the mean, and of the mean.
        """
        self._counts = counts
        self._under_way = []
        for index in sorted(self._shards):
            shard = self._shards[index]
            moments = self._rule.moments(hypers[shard.bucket.place.group])
            tensors = {"": shard.master_S, **{name: shard.state_S[name] for name in moments}}
            for name, tensor_S in tensors.items():
                moment = moments.get(name, _VALUE)
                if moment.order in what:
                    bound = _bound(shard, moment, moments) if moment.order == 1 and 2 not in what else None
                    self._under_way.append(self._launch(shard, moment, tensor_S, bound, step))
        for leg in range(2):
            failure: Exception | None = None
            for average in self._under_way:
                assert average.passage.work is not None
                self._meter.wait(average.passage.work)
                try:
                    average.passage.take_in(1.0 / self._replicate.size, ())
                except Exception as error:  # the others wait for what this rank has yet to launch
                    failure = failure or error
                if leg == 0:
                    self._meter.bytes_up += average.passage.go_on() or 0
            if failure is not None:
                raise failure
        return self._apart()

    def apply(self) -> dict[int, set[int]]:
        """Take the means over; returns the parameters whose values did, by bucket."""
        moved: dict[int, set[int]] = {}
        for average in self._under_way:
            total_S = average.scaled(average.passage.total, 1)
            for piece in average.pieces:
                mean = _of(total_S, piece)
                kept = mean if average.within is None else average.within.keep(piece, mean)
                _of(average.target_S, piece).copy_(kept)
            if average.moment is _VALUE:
                params = {slot.place.param for slot in average.shard.bucket.slots if self._moved(PARAMS, slot.name)}
                if params:
                    moved[average.shard.bucket.place.index] = params
        for order in {average.moment.order for average in self._under_way}:
            self.known.setdefault(order, {}).update(self._counts)
        self._under_way = []
        return moved

    def _launch(self, shard: Shard, moment: Moment, tensor_S: Tensor, bound: Bound | None, step: int) -> Average:
        pieces = [piece for piece in shard.pieces if self._moved(moment.order, piece.slot.name)]
        island = self._replicate.rank
        factors = {}
        for slot in shard.bucket.slots:
            counts = self._counts[slot.name]
            if moment.decay is not None and len(set(counts)) > 1:
                factors[slot.place.param] = _factors(moment.decay, counts, island)
        passage = ExactPassage(self._replicate, everybody_needs_all=True)
        average = Average(shard, moment, tensor_S, pieces, factors, passage, bound)
        self._meter.bytes_up += passage.launch(average.scaled(tensor_S, 0), Departure(step, 1.0, ()))
        return average

    def _moved(self, order: int, name: str) -> bool:
        """Whether some island has updated a parameter since it was last averaged."""
        counts = self._counts[name]
        known = self.known.get(order, {}).get(name)
        return any(counts) if known is None else counts != known

    def _apart(self) -> tuple[float, float]:
        apart = length = 0.0
        for average in self._under_way:
            if average.moment is _VALUE:
                mean_S = average.passage.total
                apart += float(torch.linalg.vector_norm(average.target_S - mean_S, dtype=torch.float64) ** 2)
                length += float(torch.linalg.vector_norm(mean_S, dtype=torch.float64) ** 2)
        return apart, length


def _of(tensor_S: Tensor, piece: OwnedPiece) -> Tensor:
    place = piece.place
    return tensor_S[place.offset : place.offset + place.stop - place.start]


def _bound(shard: Shard, first: Moment, moments: Mapping[str, Moment]) -> Bound | None:
    """Of a rule that divides the first moment by the root of a second."""
    for name, moment in moments.items():
        if moment.order == 2 and moment.decay is not None and first.decay is not None:
            return Bound(shard.state_S[name], (first.decay, moment.decay))
    return None


def _factors(decay: float, counts: Sequence[int], island: int) -> tuple[float, float]:
    """An island that has made no update has nothing to say of the mean, and takes nothing of it."""
    num_used = sum(count > 0 for count in counts)
    share = counts[island]
    if not share:
        return 0.0, 0.0
    correction = 1.0 - decay**share
    return len(counts) / num_used / correction, correction
