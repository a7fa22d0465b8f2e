"""What islands do together after a step of their own, as a transaction of its own: the step is made before it begins.

    meet       is everybody at the same step, with the same settings, and which buckets are awake; update counts
    exchange   between islands
    vote       has everything arrived on all workers, and how far apart are the islands
    apply      masters and state change; fresh slices go DOWN, exactly, in every island

An error before `apply` leaves every island with its own parameters and state, those after the step.
"""

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd.graph import increment_version

from adamesh.comm.base import Mesh
from adamesh.engine.averaging import Averaging
from adamesh.engine.bucket import LiveBucket, LiveSlot
from adamesh.engine.delivery import ExactDelivery
from adamesh.engine.meter import Meter
from adamesh.engine.outer import OuterOptimizer
from adamesh.engine.owner import Shard
from adamesh.engine.wiring import Wiring
from adamesh.errors import CommunicationError, ConfigurationError, ParameterError, StateLost, StepOutOfSync
from adamesh.rules.base import Hyper, Rule
from adamesh.sync.base import PARAMS, Outer, SyncPlan

__all__ = ["Agreement"]

_HEAD = struct.Struct("<Q8s8s")
_VOTE = struct.Struct("<Bdd")


@dataclass(frozen=True)
class Head:
    """One rank's word before an exchange."""

    step: int
    settings: bytes
    """Eight bytes that tell this rank's hyper-parameters from others."""
    written: bytes
    """Eight bytes that tell what was written to parameters from outside before their first step."""
    awake: npt.NDArray[np.bool_]
    """By bucket."""
    counts: npt.NDArray[np.int64]
    """Updates made, by slot."""

    def pack(self) -> bytes:
        """The same length on every rank of one layout."""
        return _HEAD.pack(self.step, self.settings, self.written) + self.awake.tobytes() + self.counts.tobytes()

    @classmethod
    def unpack(cls, message: bytes, num_buckets: int) -> "Head":
        """The inverse of :meth:`pack`."""
        step, settings, written = _HEAD.unpack_from(message)
        awake = np.frombuffer(message, dtype=bool, offset=_HEAD.size, count=num_buckets)
        counts = np.frombuffer(message[_HEAD.size + num_buckets :], dtype=np.int64)
        return cls(step, settings, written, awake, counts)


class Agreement:
    """Leads the islands of one optimizer together, on one rank.

    Args:
        wiring: who talks to whom.
        buckets: the optimizer's.
        shards: this rank's slices of them, by bucket.
        rule: the optimizer's.
        outer: what becomes of pseudo-gradients, if the schedule has some.
        meter: counts bytes and waiting.
    """

    def __init__(
        self,
        wiring: Wiring,
        buckets: list[LiveBucket],
        shards: dict[int, Shard],
        rule: Rule,
        outer: Outer | None,
        meter: Meter,
    ) -> None:
        self.params_apart = self.state_apart = False
        """Islands may differ in their parameters, in anything."""
        self.heads: list[dict[str, Any]] = []
        """What islands told each other of themselves, to be saved, after `heads_step` steps."""
        self.heads_step = -1
        self.averaging = Averaging(wiring.mesh.replicate, shards, rule, meter)
        self.outer = OuterOptimizer(outer, wiring, meter) if outer is not None else None
        self._coded = wiring.wire.across is not None
        self._written = bytes(8)
        self._mesh: Mesh = wiring.mesh
        self._buckets = buckets
        self._shards = shards
        self._meter = meter
        self._down = ExactDelivery(wiring.mesh.shard)

    @property
    def state_bytes(self) -> int:
        """Of the outer optimizer."""
        return 0 if self.outer is None else self.outer.state_bytes

    @property
    def buffer_bytes(self) -> int:
        """Of the outer optimizer."""
        return 0 if self.outer is None else self.outer.buffer_bytes

    def adopt(self, shard: Shard) -> None:
        """A bucket woke up."""
        if self.outer is not None:
            self.outer.adopt(shard)

    def note_own_step(self) -> None:
        """Islands have made a step each on its own."""
        if self._mesh.replicate.size > 1:
            self.params_apart = self.state_apart = True

    def refresh(self, slot: LiveSlot) -> None:
        """A parameter was changed from outside."""
        self.averaging.refresh(slot)
        if self.outer is not None and not slot.steps:
            self.outer.refresh(slot)
            content = slot.value.detach().cpu().view(torch.uint8).numpy().tobytes()
            self._written = hashlib.blake2b(self._written + content, digest_size=8).digest()

    def wake_alike(self, wake: Callable[[LiveBucket], None]) -> None:
        """Wake every bucket that is awake on some island. Collective."""
        awake = bytes(bucket.awake for bucket in self._buckets)
        messages = self._meter.exchange(self._mesh.world, awake, "awake")
        self._wake([any(flags) for flags in zip(*messages, strict=True)], wake)

    def run(
        self, plan: SyncPlan, step: int, settings: str, hypers: Sequence[Hyper], wake: Callable[[LiveBucket], None]
    ) -> None:
        """Do what the plan says is to be done together after step number ``step``. Collective.

        Args:
            plan: the step's.
            step: its number.
            settings: the hyper-parameters in words.
            hypers: the parameter groups.
            wake: makes a dormant bucket travel and gives it state.

        Raises:
            ConfigurationError: islands have different hyper-parameters. Nothing was changed.
            StepOutOfSync: a worker failed. Nothing was changed.
            CommunicationError: workers were lost before all had voted. Nothing was changed.
            StateLost: it was cut short after that.
        """
        averages = plan.averages if self._mesh.replicate.size > 1 else ()
        if averages or plan.launch:
            counts = self._meet(step, settings, wake)
        if averages:
            self._together(
                step,
                lambda: self.averaging.exchange(averages, step, counts, hypers),
                self.averaging.apply,
                publishes=PARAMS in averages,
            )
            alike = all(len(set(by_island)) == 1 for by_island in counts.values())
            self.params_apart = self.params_apart and PARAMS not in averages
            self.state_apart = self.params_apart or not (alike and set(averages) >= {PARAMS, 1, 2})
        if self.outer is not None:
            self._move_anchors(self.outer, plan, step)

    def _move_anchors(self, outer: OuterOptimizer, plan: SyncPlan, step: int) -> None:
        # First what left in earlier steps: its vote would else stand behind a fragment in the link's queue.
        self._land(outer, [fragment for fragment in plan.land if fragment in outer.left], step)
        outer.launch(plan.launch, step)
        outer.forward([fragment for fragment in plan.forward if fragment in outer.left])
        self._land(outer, [fragment for fragment in plan.land if fragment in plan.launch], step)

    def _land(self, outer: OuterOptimizer, fragments: Sequence[int], step: int) -> None:
        """Let fragments move anchors and parameters."""
        if not fragments:
            return
        at_once = all(outer.left[fragment] == step for fragment in fragments)
        finite = self._together(
            step, lambda: outer.finish(fragments), lambda: outer.apply(fragments), publishes=True, coded=self._coded
        )
        if not finite:
            outer.drop(fragments)
        elif at_once and len(fragments) == outer.outer.fragments and not outer.outer.blend:
            self.params_apart = False

    def _together(
        self,
        step: int,
        exchange: Callable[[], tuple[float, float]],
        apply: Callable[[], Mapping[int, set[int]]],
        *,
        publishes: bool,
        coded: bool = False,
    ) -> bool:
        """Exchange, vote, apply; returns whether it was applied: what is coded must be finite."""
        failure: Exception | None = None
        apart = length = 0.0
        try:
            apart, length = exchange()
        except CommunicationError:
            raise
        except Exception as error:  # told to the others by the vote, then raised
            failure = error
        finite = self._vote(step, failure, apart, length)
        if coded and not finite:
            return False
        try:
            moved = apply()
            if publishes:
                self._deliver(moved, step)
        except BaseException as error:
            lost = StateLost(
                f"what islands agreed on after step {step} was cut short ({type(error).__name__}: {error}): some "
                "slices have it and others do not. Load a checkpoint with adamesh.load before going on"
            )
            if isinstance(error, Exception):
                raise lost from error
            raise
        return True

    def _meet(self, step: int, settings: str, wake: Callable[[LiveBucket], None]) -> dict[str, list[int]]:
        """Exchange heads; returns every island's number of updates, by parameter's name."""
        mesh = self._mesh
        slots = [slot for bucket in self._buckets for slot in bucket.slots]
        awake = np.array([bucket.awake for bucket in self._buckets], dtype=bool)
        digest = hashlib.blake2b(settings.encode(), digest_size=8).digest()
        mine = Head(step, digest, self._written, awake, np.array([slot.steps for slot in slots], dtype=np.int64))
        messages = self._meter.exchange(mesh.world, mine.pack(), "islands")
        heads = [Head.unpack(message, len(self._buckets)) for message in messages]
        for rank, head in enumerate(heads):
            if head.step != heads[0].step:
                raise StepOutOfSync(
                    f"worker {rank} is at step {head.step}, worker 0 at step {heads[0].step}: islands agree after the "
                    "same steps. Give all workers the same number of batches, or load the same checkpoint on all"
                )
        if any(head.settings != heads[0].settings for head in heads):
            found = mesh.world.exchange(settings.encode(), "settings")
            rank = next(rank for rank, text in enumerate(found) if text != found[0])
            raise ConfigurationError(
                f"worker {rank} has hyper-parameters {found[rank].decode()} and worker 0 {found[0].decode()}: islands "
                f"that step alone must step alike. Step {step} was made, and what islands do together after it was "
                "not. Set hyper-parameters alike on all workers; a scheduler that looks at the loss must be given the "
                "mean over workers"
            )
        other = next((rank for rank, head in enumerate(heads) if head.written != heads[0].written), None)
        if other is not None:
            raise ParameterError(
                f"parameters were written from outside before the first step, to other values on worker {other} than "
                f"on worker 0: islands would never agree. Step {step} was made, and what islands do together after it "
                "was not. Start again, and call adamesh.broadcast_module(model) on every worker after writing"
            )
        self._wake(np.any([head.awake for head in heads], axis=0), wake)
        by_slot = np.stack([head.counts for head in heads[:: mesh.shard.size]], axis=1).tolist()
        return {slot.name: counts for slot, counts in zip(slots, by_slot, strict=True)}

    def _wake(self, awake: Iterable[bool], wake: Callable[[LiveBucket], None]) -> None:
        for bucket, it_is in zip(self._buckets, awake, strict=True):
            if it_is and not bucket.awake:
                wake(bucket)

    def _vote(self, step: int, failure: Exception | None, apart: float, length: float) -> bool:
        """Raise on every worker if anything failed on any; the meter takes how far islands are apart.

        Returns whether everything is finite.
        """
        message = _VOTE.pack(failure is not None, apart, length)
        votes = [_VOTE.unpack(vote) for vote in self._meter.exchange(self._mesh.world, message, "islands vote")]
        failed = [rank for rank, vote in enumerate(votes) if vote[0]]
        if failure is not None:
            raise failure
        if failed:
            raise StepOutOfSync(
                f"worker(s) {failed} failed while islands exchanged what they do together after step {step}: the step "
                "was made, that was not. Their own error says why"
            )
        apart, length = (sum(vote[i] for vote in votes) for i in (1, 2))
        if length > 0:
            self._meter.divergence = math.sqrt(apart / length)
        return math.isfinite(apart + length)

    def _deliver(self, moved: Mapping[int, set[int]], step: int) -> None:
        """Bring fresh slices, as they are, to every worker of the island.

        Args:
            moved: parameters by bucket.
            step: the step's number.
        """
        works = []
        for index, params in sorted(moved.items()):
            work, num_bytes = self._down.launch(self._shards[index], params, step)
            self._meter.bytes_down += num_bytes
            works.append((self._buckets[index], work, params))
        for bucket, work, params in works:
            if work is not None:
                self._meter.wait(work)
            for slot in bucket.slots:
                if slot.place.param in params:
                    if slot.aliased:
                        increment_version(slot.param)
                    slot.publish()
