"""Steps that no other worker takes part in: the asynchronous sibling of `adamesh.engine.transaction.Transaction`.

    step     wake what is used; push every bucket's gradient to its owners; take what they answer
    flush    come to rest: all answers taken, nobody writes any more, replicas made alike, one update count a parameter

Between flushes a service (`adamesh.engine.pushing.service`) answers other workers while this one computes. Evaluation,
checkpoints, new groups and the end of training are flushes.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch

from adamesh.comm.accord import agree
from adamesh.comm.base import Mesh
from adamesh.comm.coder import Scratch
from adamesh.engine.agreement import Agreement
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.meter import Meter, PushStats, StepStats
from adamesh.engine.outstanding import Outstanding
from adamesh.engine.owner import Shard
from adamesh.engine.pushing.checks import changed_parameter, refuse_unfit
from adamesh.engine.pushing.chunks import Owner, pushed_codec
from adamesh.engine.pushing.desk import Desk
from adamesh.engine.pushing.passage import PushPassage
from adamesh.engine.pushing.rest import equalise, publish
from adamesh.engine.pushing.tally import Tally
from adamesh.engine.reducer import Reducer
from adamesh.engine.transaction import Outcome
from adamesh.engine.wiring import Wiring
from adamesh.errors import AdameshError, CheckpointError, CommunicationError, ParameterError
from adamesh.plan import Plan
from adamesh.rules.base import Hyper, Rule

__all__ = ["Pushing"]


class Pushing:
    """Makes steps out of the reducer, the owner and the service.

    Args:
        mesh: one island.
        plan: says what is accepted, and how gradients are coded.
        reducer: takes gradients out of backward; it has no ways to send them.
        rule: the update mathematics.
        meter: counts bytes and waiting.
        owner: this rank's chunks.
        hyper: gives a parameter group, as it last was.
        wiring: the reducer's.
    """

    def __init__(
        self,
        mesh: Mesh,
        plan: Plan,
        reducer: Reducer,
        rule: Rule,
        meter: Meter,
        owner: Owner,
        hyper: Callable[[int], Hyper],
        wiring: Wiring,
    ) -> None:
        pushes = plan.sync.at(0).pushes
        assert pushes is not None
        self.step_number = 0
        self.broken: AdameshError | None = None
        """Why no further step can be made, or None."""
        self.agreement = Agreement(wiring, reducer.buckets, {}, rule, None, meter)
        """Of islands, of which there is one: there is nothing to agree on."""
        self.outstanding = Outstanding(reducer, wiring, 0)
        """Gradients that are late by a schedule, of which there are none."""
        self._mesh = mesh
        self._reducer = reducer
        self._rule = rule
        self._meter = meter
        self._owner = owner
        self._pushes = pushes
        self._codec = pushed_codec(plan.wire)
        self._feedback = plan.wire.keeps_residuals
        self._desk = Desk(mesh, plan, reducer.buckets, owner, rule.hyper_names, hyper, meter)
        self._scratch = Scratch()
        self._tally = Tally()
        self._steps_at_rest = [0] * mesh.world.size

    @property
    def shards(self) -> dict[int, Shard]:
        """Bucket index -> this rank's slice."""
        return {index: chunk.shard for index, chunk in self._owner.chunks.items()}

    def connect(self, bucket: LiveBucket) -> None:
        """Let a bucket that has just been woken travel."""
        self._owner.open(bucket)
        bucket.berths[0].within = PushPassage(
            bucket,
            self._codec,
            self._feedback,
            self._desk.mailbox,
            partial(self._desk.ask_here, bucket),
            self._desk.format(bucket),
            self._pushes.outstanding,
            self._scratch,
            self._meter,
        )

    # -- a step ----------------------------------------------------------------------------------------------------

    def run(
        self,
        hypers: Sequence[Hyper],
        wake: Callable[[LiveBucket], None],
        max_grad_norm: float | None,
        loss_scale: float | None,
    ) -> Outcome:
        """Push this worker's gradient and take the newest parameters. Not collective.

        Args:
            hypers: the parameter groups.
            wake: makes a dormant bucket travel and gives it state.
            max_grad_norm: None; plans refuse others.
            loss_scale: None.

        Raises:
            IncompatiblePlan: a gradient scaler was used.
            ConfigurationError, GradientError, ParameterError: nothing was sent.
            PeerLost, CommunicationTimeout: a worker is gone, and its slices with it.
        """
        assert max_grad_norm is None, "plans refuse it"
        self.refuse_if_broken()
        buckets = self._reducer.buckets
        refuse_unfit(buckets, self.shards, self._rule, hypers, loss_scale)
        for bucket in buckets:
            if not bucket.awake and any(slot.param.grad is not None for slot in bucket.slots):
                wake(bucket)
        with torch.no_grad():
            try:
                self.serve()
                if self._pushes.max_lead is not None:
                    self._desk.wait_for_slowest(self.step_number, self._pushes.max_lead)
                self._push(buckets)
                self._land(self._pushes.outstanding)
                self._desk.refuse_if_failed()
            except CommunicationError as error:
                self.broken = type(error)(
                    f"in step {self.step_number} of this worker another one was lost, and its slices of parameters and "
                    "state with it: these workers cannot go on. Restart with the workers that are left, and load the "
                    "last checkpoint. (A worker that is done calls flush(), which serves until all are.) The cause: "
                    f"{error}"
                )
                raise self.broken from error
        self._reducer.close_window()
        self.go_on_from(self.step_number + 1)
        return Outcome(self._tally.last_share > 0, math.sqrt(self._tally.last_squares))

    def go_on_from(self, step_number: int) -> None:
        """A step has ended, or a checkpoint was loaded."""
        self.step_number = step_number
        self._reducer.step_number = step_number
        self._reducer.lost = None
        self.broken = None

    def restart(self) -> None:
        """All replicas and masters were loaded, alike on all workers."""
        for chunk in self._owner.chunks.values():
            chunk.come_to_rest()
        for passage in self._passages():
            passage.versions = [0] * self._mesh.world.size
        self._steps_at_rest = [self.step_number] * self._mesh.world.size

    def refuse_if_broken(self) -> None:
        """Raise what stops further steps, if anything does."""
        if self.broken is not None:
            raise type(self.broken)(str(self.broken))

    def refuse_while_serving(self) -> None:
        """Raise if others may be updating this worker's slices at this moment.

        Raises:
            CheckpointError: they may.
        """
        if self._desk.is_open:
            raise CheckpointError(
                "state was asked for, or given, while workers push into each other's slices: it would be torn. Call "
                "optimizer.flush() on every worker first (adamesh.save and full_state_dict do)"
            )

    def serve(self) -> None:
        """Answer other workers from now on, until the next flush."""
        self._desk.open()

    # -- coming to rest --------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Come to rest, and make all replicas alike. Collective; waits for the slowest, and serves it meanwhile.

        Raises:
            ParameterError: a parameter was changed from outside since the last step, on some worker.
            PeerLost, CommunicationTimeout: a worker is gone.
        """
        self.serve()
        changed = changed_parameter(self._reducer.buckets)  # before answers are written over it
        with torch.no_grad():
            self._land(0)
        clocks = self._desk.halt(self.step_number)
        if clocks != self._steps_at_rest:
            agree(self._mesh.world, changed, ParameterError, "flush")
            with torch.no_grad():
                equalise(self._mesh, self._reducer.buckets, self.shards, self._rule, self._meter)
            self.go_on_from(max(clocks))
            self.restart()

    # -- what it costs ---------------------------------------------------------------------------------------------

    def stats(self, committed: bool) -> StepStats:
        """What the meter counted since it was reset, with what is held."""
        meter, buckets = self._meter, self._reducer.buckets
        return StepStats(
            step=self.step_number,
            committed=committed,
            world_size=self._mesh.world.size,
            bytes_up=meter.bytes_up,
            bytes_down=self._desk.answered_since(),
            bytes_control=meter.bytes_control,
            comm_exposed_s=meter.exposed_s,
            state_bytes=sum(shard.state_bytes for shard in self.shards.values())
            + sum(bucket.residual_bytes for bucket in buckets),
            buffer_bytes=sum(bucket.buffer_bytes for bucket in buckets)
            + self._scratch.num_bytes
            + self._owner.buffer_bytes
            + self._desk.buffer_bytes,
            buckets_resent=0,
            staleness=self._tally.last_staleness,
            pushes=self.push_stats(),
        )

    def push_stats(self) -> PushStats:
        """What became of this worker's gradients."""
        return self._tally.stats()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _push(self, buckets: Sequence[LiveBucket]) -> None:
        for bucket in buckets:
            if any(slot.wide_valid for slot in bucket.slots) and not bucket.wide:
                bucket.widen(self._mesh.shard)
                bucket.wide = True
        for bucket, passage in zip(self._awake(), self._passages(), strict=True):
            passage.numbers = self._desk.numbers(bucket)
            for slot in bucket.slots:
                slot.steps += slot.param.grad is not None and not slot.value.numel()
        self._reducer.depart()

    def _land(self, outstanding: int) -> None:
        """Take answers until no more than so many pushes of each bucket wait for theirs."""
        answered = []
        for bucket, passage in zip(self._awake(), self._passages(), strict=True):
            while passage.num_under_way > outstanding:
                passage.take_in(1.0, ())
            answered += passage.answered()
            if passage.has_news():
                for slot in bucket.slots:
                    publish(slot)
        self._tally.add(answered)

    def _awake(self) -> list[LiveBucket]:
        return [bucket for bucket in self._reducer.buckets if isinstance(bucket.within, PushPassage)]

    def _passages(self) -> list[PushPassage]:
        return [b.within for b in self._reducer.buckets if isinstance(b.within, PushPassage)]
