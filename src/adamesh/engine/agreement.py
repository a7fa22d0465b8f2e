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

__all__ = ["Agreement", "Decision", "Stage"]

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


AVERAGES, LANDS, LEAVES = range(3)
"""What is done together after a step, stage by stage: averages; fragments of earlier steps; those that leave now."""


@dataclass(frozen=True)
class Decision:
    """What a vote has decided."""

    step: int
    number: int
    """Of the stage."""
    finite: bool


@dataclass
class Stage:
    """How far one rank is with what is done together after a step."""

    step: int
    number: int
    """Of the stage that is under way."""
    apply: Callable[[], Mapping[int, set[int]]] | None = None
    """Does what is decided, once everything that it takes is here; returns the parameters that moved, by bucket."""
    publishes: bool = False
    drop: Callable[[], None] | None = None
    """What is done instead where numbers are not finite and may not be applied."""


class Agreement:
    """Leads the islands of one optimizer together, on one rank.

    Args:
        wiring: who talks to whom.
        buckets: the optimizer's.
        shards: this rank's slices of them, by bucket.
        rule: the optimizer's.
        outer: what becomes of pseudo-gradients, if the schedule has some.
        meter: counts bytes and waiting.
        restless: whether somebody asks this worker to come or to go; None where nobody may.
    """

    def __init__(
        self,
        wiring: Wiring,
        buckets: list[LiveBucket],
        shards: dict[int, Shard],
        rule: Rule,
        outer: Outer | None,
        meter: Meter,
        restless: Callable[[], bool] | None = None,
    ) -> None:
        self.stage: Stage | None = None
        """Of what is being agreed on, until it is done."""
        self.decision: Decision | None = None
        """What a vote has decided last."""
        self.restless = False
        """Some worker has said in the last vote that somebody comes or goes."""
        self.not_before = 0
        """No fragment leaves after an earlier step: some islands have passed it in another epoch."""
        self._restless = restless
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
        self,
        plan: SyncPlan,
        step: int,
        settings: str,
        hypers: Sequence[Hyper],
        wake: Callable[[LiveBucket], None],
        begin: int = 0,
    ) -> None:
        """Do what the plan says is to be done together after step number ``step``. Collective.

        Args:
            plan: the step's.
            step: its number.
            settings: the hyper-parameters in words.
            hypers: the parameter groups.
            wake: makes a dormant bucket travel and gives it state.
            begin: the first stage that is to be done; a number above 0 where earlier ones were, among other workers.

        Raises:
            ConfigurationError: islands have different hyper-parameters. Nothing was changed.
            StepOutOfSync: a worker failed. Nothing was changed.
            CommunicationError: workers were lost before all had voted. Nothing was changed.
            StateLost: it was cut short after that.
        """
        averages = plan.averages if self._mesh.replicate.size > 1 else ()
        launches = plan.launch if step >= self.not_before else ()
        self.stage = Stage(step, begin)
        if averages or launches:
            counts = self._meet(step, settings, wake)
        if averages and self.stage.number == AVERAGES:
            alike = all(len(set(by_island)) == 1 for by_island in counts.values())
            self._together(
                lambda: self.averaging.exchange(averages, step, counts, hypers),
                lambda: self._average(averages, alike),
                publishes=PARAMS in averages,
            )
        if self.outer is not None:
            self._move_anchors(self.outer, plan, launches, self.stage)
        self.stage = None

    def make_good(self, decision: "Decision") -> None:
        """Do what the others have decided, with what is here; in an island of one worker. No collective."""
        stage = self.stage
        assert stage is not None and stage.apply is not None and self._mesh.shard.size == 1
        assert (stage.step, stage.number) == (decision.step, decision.number), (stage, decision)
        self._apply(stage, decision.finite)

    def _average(self, averages: Sequence[int], alike: bool) -> Mapping[int, set[int]]:
        moved = self.averaging.apply()
        self.params_apart = self.params_apart and PARAMS not in averages
        self.state_apart = self.params_apart or not (alike and set(averages) >= {PARAMS, 1, 2})
        return moved

    def _move_anchors(self, outer: OuterOptimizer, plan: SyncPlan, launches: Sequence[int], stage: "Stage") -> None:
        # First what left in earlier steps: its vote would else stand behind a fragment in the link's queue.
        if stage.number <= LANDS:
            stage.number = LANDS
            self._land(outer, [fragment for fragment in plan.land if fragment in outer.left], stage.step)
        stage.number = LEAVES
        outer.launch(launches, stage.step)
        outer.forward([fragment for fragment in plan.forward if fragment in outer.left])
        self._land(outer, [fragment for fragment in plan.land if fragment in launches], stage.step)

    def _land(self, outer: OuterOptimizer, fragments: Sequence[int], step: int) -> None:
        """Let fragments move anchors and parameters."""
        if fragments:
            at_once = all(outer.left[fragment] == step for fragment in fragments)
            all_at_once = at_once and len(fragments) == outer.outer.fragments and not outer.outer.blend
            self._together(
                lambda: outer.finish(fragments),
                lambda: self._move(outer, fragments, all_at_once),
                publishes=True,
                drop=(lambda: outer.drop(fragments)) if self._coded else None,
            )

    def _move(self, outer: OuterOptimizer, fragments: Sequence[int], all_at_once: bool) -> Mapping[int, set[int]]:
        moved = outer.apply(fragments)
        self.params_apart = self.params_apart and not all_at_once
        return moved

    def _together(
        self,
        exchange: Callable[[], tuple[float, float]],
        apply: Callable[[], Mapping[int, set[int]]],
        *,
        publishes: bool,
        drop: Callable[[], None] | None = None,
    ) -> None:
        """Exchange, vote, apply; what is coded must be finite, and is dropped where it is not."""
        stage = self.stage
        assert stage is not None
        failure: Exception | None = None
        apart = length = 0.0
        try:
            apart, length = exchange()
        except CommunicationError:
            raise
        except Exception as error:  # told to the others by the vote, then raised
            failure = error
        stage.apply, stage.publishes, stage.drop = apply, publishes, drop
        finite = self._vote(stage.step, failure, apart, length)
        self.decision = Decision(stage.step, stage.number, finite)
        self._apply(stage, finite)

    def _apply(self, stage: "Stage", finite: bool) -> None:
        assert stage.apply is not None
        if stage.drop is not None and not finite:
            stage.drop()
        else:
            try:
                moved = stage.apply()
                if stage.publishes:
                    self._deliver(moved, stage.step)
            except BaseException as error:
                lost = StateLost(
                    f"what islands agreed on after step {stage.step} was cut short ({type(error).__name__}: {error}): "
                    "some slices have it and others do not. Load a checkpoint with adamesh.load before going on"
                )
                if isinstance(error, Exception):
                    raise lost from error
                raise
        stage.number += 1
        stage.apply = None

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
        restless = self._restless is not None and self._restless()
        message = _VOTE.pack((failure is not None) | restless << 1, apart, length)
        votes = [_VOTE.unpack(vote) for vote in self._meter.exchange(self._mesh.world, message, "islands vote")]
        self.restless = any(vote[0] & 2 for vote in votes)
        failed = [rank for rank, vote in enumerate(votes) if vote[0] & 1]
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
