"""One step: begin, exchange, vote, commit or abort. Until the commit, nothing a step touches has changed.

    header   who has what (`adamesh.engine.opening`)
    drain    every bucket has arrived and is summed
    vote     is everybody ready, and what is the norm of the mean gradient
    commit   update and gather, bucket by bucket

Where the schedule lets islands step alone, header and vote are the island's, and so is the step; what islands do
together afterwards is in `adamesh.engine.agreement`.

An error before the commit is raised on every rank and leaves parameters and state as they were. A commit that
is cut short leaves a *torn* optimizer, which says so and refuses to go on until it is loaded.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from adamesh.engine.agreement import Agreement
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.gather import Gather
from adamesh.engine.header import Vote
from adamesh.engine.meter import Meter, StepStats
from adamesh.engine.opening import Opening, Peers, in_words
from adamesh.engine.outstanding import Outstanding
from adamesh.engine.owner import Shard
from adamesh.engine.reducer import Reducer
from adamesh.engine.rows import RowStep
from adamesh.engine.wiring import Wiring
from adamesh.errors import AdameshError, CommunicationError, StateLost, StepOutOfSync
from adamesh.membership.base import Membership
from adamesh.rules.base import Hyper, Rule
from adamesh.sync.base import Schedule

__all__ = ["Outcome", "Transaction"]


@dataclass(frozen=True)
class Outcome:
    """How a step ended, the same on every rank."""

    committed: bool
    norm: float
    """Global norm of the mean gradient, unscaled, before clipping."""
    entries: Mapping[str, Any] = field(default_factory=dict)
    """What the step makes of entries of all parameter groups, from the next step on."""


class Transaction:
    """Makes steps out of the reducer, the owners and the gather."""

    def __init__(
        self,
        wiring: Wiring,
        reducer: Reducer,
        rule: Rule,
        schedule: Schedule,
        membership: Membership,
        meter: Meter,
        rows: RowStep,
    ) -> None:
        self.reducer = reducer
        self.rows = rows
        self.shards: dict[int, Shard] = {}
        """Bucket index -> this rank's slice; dormant buckets have none."""
        self.step_number = 0
        self.broken: AdameshError | None = None
        """Why no further step can be made, or None."""
        self._mesh = wiring.mesh
        self._rule = rule
        self._schedule = schedule
        self._membership = membership
        self._meter = meter
        self._wiring = wiring
        self._gather = Gather(wiring, meter)
        self.agreement = Agreement(wiring, reducer.buckets, self.shards, rule, schedule.at(0).outer, meter)
        self.outstanding = Outstanding(reducer, wiring, schedule.at(0).delay)
        self._opening = Opening(reducer, rows, self.shards, rule, membership, meter, self.agreement.refresh)
        self.go_on_from(0)

    def run(
        self,
        hypers: Sequence[Hyper],
        wake: Callable[[LiveBucket], None],
        max_grad_norm: float | None,
        loss_scale: float | None,
    ) -> Outcome:
        """Make one step.

        Args:
            hypers: the parameter groups.
            wake: makes a dormant bucket travel and gives it state.
            max_grad_norm: clip the global norm to this.
            loss_scale: the factor in the gradients, under a gradient scaler: a non-finite one then skips the step (as
                it always does where anything is coded).

        Raises:
            GradientError, ParameterError, StepOutOfSync, CommunicationError: before the commit; nothing changed.
            StateLost: the commit was cut short, now or earlier.
        """
        self.refuse_if_broken()
        waiting = self.outstanding
        with self._or_broken():
            self.reducer.begin(loss_scale)
            used = self._opening.agree(self._peers, hypers, loss_scale, wake)
            if not waiting.delay:
                outcome = self._update(used, hypers, max_grad_norm, loss_scale)
                self.reducer.close_window()
            else:
                waiting.advance()
                is_due = len(waiting.parcels) >= waiting.delay
                outcome = self._update_oldest(hypers, max_grad_norm) if is_due else Outcome(True, 0.0)
                waiting.leave(used, self._weight)
        self.rows.close()
        self.go_on_from(self.step_number + 1)
        self._agree_islands(hypers, wake)
        return outcome

    def drain(self, hypers: Sequence[Hyper], max_grad_norm: float | None) -> None:
        """Make the updates that are outstanding. Collective; raises what `run` does."""
        self.refuse_if_broken()
        with self._or_broken():
            while self.outstanding.parcels:
                self._update_oldest(hypers, max_grad_norm)

    def _update_oldest(self, hypers: Sequence[Hyper], max_grad_norm: float | None) -> Outcome:
        """Make the update with the oldest gradients that are outstanding."""
        try:
            return self._update(self.outstanding.parcels[0].used, hypers, max_grad_norm, None)
        finally:
            for bucket in self.reducer.buckets:
                bucket.reduced_S = None

    def _update(
        self, used: set[int], hypers: Sequence[Hyper], max_grad_norm: float | None, loss_scale: float | None
    ) -> Outcome:
        """Sum, vote, and commit if all goes well."""
        updates = max((slot.steps for bucket in self.reducer.buckets for slot in bucket.slots), default=0)
        squares, measured = self._drain(used, loss_scale, self._rule.measures(hypers, updates))
        norm = math.sqrt(squares)
        # Without a scaler and codecs, torch's semantics: what is not finite goes where it goes. Of a residual it would
        # never leave.
        committed = (loss_scale is None and self._wiring.wire.is_exact) or math.isfinite(norm)
        entries: Mapping[str, Any] = {}
        if committed:
            coefficient = 1.0
            if max_grad_norm is not None:
                # torch.nn.utils.clip_grad_norm_'s formula; in this order min() passes a NaN on, as torch's clamp does.
                coefficient = min(max_grad_norm / (norm + 1e-6), 1.0)
            self._commit(hypers, used, coefficient)
            entries = self._rule.advance(hypers, updates, measured)
        return Outcome(committed, norm, entries)

    @contextmanager
    def _or_broken(self) -> Iterator[None]:
        """Workers that are lost before the commit stop this one, with everything as it was."""
        try:
            yield
        except CommunicationError as error:
            self.broken = type(error)(
                f"step {self.step_number} was aborted because workers were lost, and these workers cannot go on: "
                "parameters and state are those before that step. Restart with the workers that are left, and load "
                f"the last checkpoint. The cause: {error}"
            )
            raise self.broken from error

    def go_on_from(self, step_number: int) -> None:
        """The state is whole and that of ``step_number`` steps: a step has ended, or a checkpoint was loaded."""
        self.step_number = step_number
        self.reducer.step_number = step_number
        self.reducer.islands_agree = self._schedule.at(step_number).gradients
        self.reducer.turn_to(step_number)
        self.broken = None

    @property
    def _weight(self) -> float:
        """Of each worker's gradient in the mean."""
        return self._membership.weight if self.reducer.islands_agree else 1.0 / self._mesh.shard.size

    @property
    def _peers(self) -> Peers:
        mesh = self._mesh
        if self.reducer.islands_agree:
            return Peers(mesh.world, 0)
        return Peers(mesh.shard, mesh.replicate.rank * mesh.shard.size)

    def refuse_if_broken(self) -> None:
        """Raise what stops further steps, if anything does."""
        if self.broken is not None:
            raise type(self.broken)(str(self.broken))

    def stats(self, committed: bool) -> StepStats:
        """What the meter counted since it was reset, with what is held."""
        meter, buckets = self._meter, self.reducer.buckets
        return StepStats(
            step=self.step_number,
            committed=committed,
            world_size=self._mesh.world.size,
            bytes_up=meter.bytes_up,
            bytes_down=meter.bytes_down,
            bytes_control=meter.bytes_control,
            comm_exposed_s=meter.exposed_s,
            state_bytes=sum(shard.state_bytes for shard in self.shards.values())
            + sum(bucket.residual_bytes for bucket in buckets)
            + self.agreement.state_bytes
            + self.rows.state_bytes,
            buffer_bytes=sum(bucket.buffer_bytes for bucket in buckets)
            + self._gather.buffer_bytes
            + self.agreement.buffer_bytes
            + self._wiring.scratch.num_bytes
            + self.rows.param_bytes,
            buckets_resent=meter.buckets_resent,
            staleness=self.outstanding.delay,
            divergence=meter.divergence,
            bytes_per_step=meter.bytes_per_step,
        )

    # -- exchange and vote -----------------------------------------------------------------------------------

    def _drain(self, used: set[int], loss_scale: float | None, to_measure: str | None) -> tuple[float, float]:
        """Sum all buckets and vote; returns the squared norm of the mean gradient, and what the rule measures."""
        peers = self._peers
        failure: Exception | None = None
        squares = measured = 0.0
        try:
            self.rows.collect(used, self._weight / (loss_scale or 1.0))
            if self.outstanding.delay:
                squares = self._meter.read(self.outstanding.take_oldest()[1])
            else:
                squares = self._meter.read(self.reducer.drain(self._weight, used)) + self.rows.squares()
            if to_measure is not None and self._mesh.replicate.rank == 0:  # the other islands hold the same
                sizes = (shard.magnitude(to_measure) for shard in self.shards.values())
                measured = self._meter.read(sum(sizes, torch.zeros((), dtype=torch.float64)))
        except CommunicationError:
            raise
        except Exception as error:  # told to the others by the vote, then raised
            failure = error
        messages = self._meter.exchange(peers.comm, Vote(failure is not None, squares, measured).pack(), "vote")
        votes = [Vote.unpack(message) for message in messages]
        failed = [peers.worker(rank) for rank, vote in enumerate(votes) if vote.failed]
        if not failed:
            return sum(vote.squares for vote in votes), sum(vote.measured for vote in votes)
        if self.outstanding.delay:
            self.reducer.settle()
        else:
            self.reducer.close_window()
        if failure is not None:
            raise failure
        raise StepOutOfSync(
            f"worker(s) {failed} failed while summing gradients; the step was aborted and nothing was changed. "
            "Their own error says why"
        )

    # -- commit ----------------------------------------------------------------------------------------------

    def _commit(self, hypers: Sequence[Hyper], used: set[int], coefficient: float) -> None:
        try:
            gathers = []
            for bucket in self.reducer.buckets:
                if any(slot.place.param in used for slot in bucket.slots):
                    shard = self.shards[bucket.place.index]
                    shard.update(self._rule, hypers[bucket.place.group], used, coefficient)
                    gathers.append((bucket, self._gather.launch(shard, used, self.step_number)))
            if not self.outstanding.delay:
                self.reducer.commit()  # while the slices are on their way
            self.rows.commit(hypers, coefficient)
            for bucket, work in gathers:
                self._gather.land(bucket, work, used, self.step_number)
        except BaseException as error:
            self.broken = StateLost(
                f"the commit of step {self.step_number} was cut short ({type(error).__name__}: {error}): some "
                "slices are updated and others are not. Load a checkpoint with adamesh.load before going on"
            )
            # Everything that went up has arrived; other ranks may have committed and closed theirs.
            self.reducer.close_window()
            if isinstance(error, Exception):
                raise self.broken from error
            raise

    # -- between islands -------------------------------------------------------------------------------------

    def _agree_islands(self, hypers: Sequence[Hyper], wake: Callable[[LiveBucket], None]) -> None:
        """What islands do together after the step that was just made."""
        step = self.step_number - 1
        plan = self._schedule.at(step)
        if not plan.gradients:
            self.agreement.note_own_step()
        try:
            self.agreement.run(plan, step, in_words(self._rule, hypers), hypers, wake)
        except StateLost as error:
            self.broken = error
            raise
        except CommunicationError as error:
            self.broken = type(error)(
                f"step {step} was made, what islands do together after it was not, because workers were lost, and "
                "these workers cannot go on: parameters and state are those of this island after that step. Restart "
                f"with the workers that are left, and load the last checkpoint. The cause: {error}"
            )
            raise self.broken from error
        self._meter.close_step(ends_period=plan.gradients or bool(plan.averages or plan.land))
