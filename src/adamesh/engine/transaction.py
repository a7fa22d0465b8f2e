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
from functools import partial
from typing import Any

import torch

from adamesh.comm.company import Company
from adamesh.engine.agreement import Agreement
from adamesh.engine.bucket import LiveBucket, LiveSlot
from adamesh.engine.gather import Gather
from adamesh.engine.header import Vote
from adamesh.engine.meter import Meter, StepStats
from adamesh.engine.mirrors import Mirrors
from adamesh.engine.opening import Opening, Peers, in_words
from adamesh.engine.outstanding import Outstanding
from adamesh.engine.owner import Shard
from adamesh.engine.reducer import Reducer
from adamesh.engine.refusal import Refusal
from adamesh.engine.rows import RowStep
from adamesh.engine.verdict import Progress, Verdict
from adamesh.engine.watch import Watch
from adamesh.engine.wiring import Wiring
from adamesh.errors import AdameshError, CommunicationError, StateLost, StepOutOfSync
from adamesh.guard import Guard
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
    refusal: Refusal | None = None
    """Why the guard did not let it be made."""


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
        mirrors: Mirrors,
        company: Company | None,
        guard: Guard | None,
    ) -> None:
        self.reducer = reducer
        self.rows = rows
        self.mirrors = mirrors
        self.shards: dict[int, Shard] = {}
        """Bucket index -> this rank's slice; dormant buckets have none."""
        self.step_number = 0
        self.broken: AdameshError | None = None
        """Why no further step can be made, or None."""
        self.progress: Progress | None = None
        """Of the step under way, from its vote on: what it takes to make it without the others."""
        self.verdict: Verdict | None = None
        """What was decided last."""
        self.restless = False
        """Some worker has said in the last vote that somebody comes or goes. Only where workers may."""
        self._company = company
        self._mesh = wiring.mesh
        self._rule = rule
        self._schedule = schedule
        self._membership = membership
        self._meter = meter
        self._wiring = wiring
        self._gather = Gather(wiring, meter)
        restless = None if company is None else lambda: company.restless
        self.agreement = Agreement(wiring, reducer.buckets, self.shards, rule, schedule.at(0).outer, meter, restless)
        self.outstanding = Outstanding(reducer, wiring, schedule.at(0).delay)
        # Not a method of this object, which would hold itself: an optimizer that nobody uses must go at once.
        refresh = partial(_refresh, self.agreement, mirrors)
        self.opening = Opening(reducer, rows, self.shards, rule, membership, meter, refresh)
        self.watch: Watch | None = None
        """The guard, if there is one."""
        if guard is not None:
            delayed = schedule.at(0).delay > 0
            self.watch = Watch(guard, reducer.buckets, rows, wiring.mesh.shard.size, meter, delayed=delayed)
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
        self.progress = None
        with self._or_broken():
            self.reducer.begin(loss_scale)
            used = self.opening.agree(self._peers, hypers, loss_scale, wake)
            if not waiting.delay:
                outcome = self._update(used, hypers, max_grad_norm, loss_scale)
                self.reducer.close_window()
            else:
                waiting.advance()
                is_due = len(waiting.parcels) >= waiting.delay
                outcome = self._update_oldest(hypers, max_grad_norm) if is_due else Outcome(True, 0.0)
                waiting.leave(used, self._weight)
        self.rows.close()
        if outcome.refusal is not None and self._may_stay:
            # As if it had never begun, so that the next one, the same or another, is this one to the bit.
            self.progress = None
            self.go_on_from(self.step_number)
            self._meter.close_step(ends_period=True)
            return outcome
        self.go_on_from(self.step_number + 1)
        self.agree_islands(hypers, wake)
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
        self.progress = Progress(self.step_number, used, hypers)
        votes = self._drain(used, loss_scale, self._rule.measures(hypers, updates))
        norm, measured = math.sqrt(sum(v.squares for v in votes)), sum(v.measured for v in votes)
        refusal = None if self.watch is None else self.watch.judge(self._peers, votes, loss_scale)
        if refusal is not None and self._may_stay:
            return Outcome(False, norm, refusal=refusal)
        # Without a scaler and codecs, torch's semantics: what is not finite goes where it goes. Of a residual it would
        # never leave.
        committed = (loss_scale is None and self._wiring.wire.is_exact) or math.isfinite(norm)
        committed = committed and refusal is None
        coefficient = 1.0
        if max_grad_norm is not None:
            # torch.nn.utils.clip_grad_norm_'s formula; in this order min() passes a NaN on, as torch's clamp does.
            coefficient = min(max_grad_norm / (norm + 1e-6), 1.0)
        entries = self._rule.advance(hypers, updates, measured) if committed else {}
        self.verdict = Verdict(self.step_number, committed, norm, coefficient, entries)
        if committed:
            if self._company is not None:
                self._company.note(self.step_number, "commit")
            self._commit(self.progress, coefficient)
        return Outcome(committed, norm, entries, refusal)

    def make_good(self, verdict: Verdict) -> Outcome:
        """Make the step that the others have decided, with what is here; only this rank's slices and mirrors change.

        What arrives DOWN is left out: whoever calls this publishes all slices afresh. No collective.
        """
        progress = self.progress
        assert progress is not None and progress.ready and verdict.step == progress.step == self.step_number
        self.verdict = verdict
        if verdict.committed:
            for bucket in self._moving(progress):
                self._update_slice(bucket, progress, verdict.coefficient)
            self._update_mirrors(progress, verdict.coefficient)
            self._keep_residuals(progress)
            for bucket in self._moving(progress):
                if bucket.place.index not in progress.landed:
                    for slot in bucket.slots:
                        slot.steps += slot.place.param in progress.used
        self.progress = None
        self.go_on_from(self.step_number + 1)
        return Outcome(verdict.committed, verdict.norm, verdict.entries)

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
        self.reducer.lost = None
        self.broken = None

    @property
    def _weight(self) -> float:
        """Of each worker's gradient in the mean."""
        return self._membership.weight if self.reducer.islands_agree else 1.0 / self._mesh.shard.size

    @property
    def _may_stay(self) -> bool:
        """Whether a step that was refused leaves everybody where they were: no other island has gone on meanwhile."""
        return self.reducer.islands_agree and not self.outstanding.delay

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
            + self.mirrors.state_bytes
            + self.rows.state_bytes,
            buffer_bytes=sum(bucket.buffer_bytes for bucket in buckets)
            + self._gather.buffer_bytes
            + self.agreement.buffer_bytes
            + self.mirrors.buffer_bytes
            + self._wiring.scratch.num_bytes
            + self.rows.param_bytes,
            buckets_resent=meter.buckets_resent,
            staleness=self.outstanding.delay,
            divergence=meter.divergence,
            bytes_per_step=meter.bytes_per_step,
            work_s=meter.work_s,
        )

    # -- exchange and vote -----------------------------------------------------------------------------------

    def _drain(self, used: set[int], loss_scale: float | None, to_measure: str | None) -> list[Vote]:
        """Sum all buckets and vote; returns the votes, with the squared norm of the mean gradient in parts."""
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
                measured = self._meter.read(sum(sizes, torch.zeros((), dtype=torch.float64, device="cpu")))
        except CommunicationError:
            raise
        except Exception as error:  # told to the others by the vote, then raised
            failure = error
        self.mirrors.receive(bucket for bucket in self.reducer.buckets if bucket.left)
        assert self.progress is not None
        self.progress.ready = failure is None
        restless = self._company is not None and self._company.restless
        note = b"" if self.watch is None else self.watch.note(self.step_number)
        mine = Vote(failure is not None, squares, measured, restless, note)
        votes = [Vote.unpack(message) for message in self._meter.exchange(peers.comm, mine.pack(), "vote")]
        self.restless = any(vote.restless for vote in votes)
        failed = [peers.worker(rank) for rank, vote in enumerate(votes) if vote.failed]
        if not failed:
            return votes
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

    def _commit(self, progress: Progress, coefficient: float) -> None:
        used = progress.used
        try:
            gathers = []
            for bucket in self._moving(progress):
                self._update_slice(bucket, progress, coefficient)
                gathers.append((bucket, self._gather.launch(self.shards[bucket.place.index], used, self.step_number)))
            # While the slices are on their way:
            self._update_mirrors(progress, coefficient)
            self._keep_residuals(progress)
            self.rows.commit(progress.hypers, coefficient)
            for bucket, work in gathers:
                self._gather.land(bucket, work, used, self.step_number)
                progress.landed.add(bucket.place.index)
        except BaseException as error:
            self.broken = StateLost(
                f"the commit of step {self.step_number} was cut short ({type(error).__name__}: {error}): some "
                "slices are updated and others are not. Load a checkpoint with adamesh.load before going on"
            )
            # Everything that went up has arrived; other ranks may have committed and closed theirs. Among workers that
            # may go on with those who are left, what was summed is still needed.
            if self._company is None or not isinstance(error, CommunicationError):
                self.reducer.close_window()
            if isinstance(error, Exception):
                raise self.broken from error
            raise

    def _moving(self, progress: Progress) -> list[LiveBucket]:
        """The buckets that a step concerns."""
        buckets = self.reducer.buckets
        return [bucket for bucket in buckets if any(slot.place.param in progress.used for slot in bucket.slots)]

    def _update_slice(self, bucket: LiveBucket, progress: Progress, coefficient: float) -> None:
        index = bucket.place.index
        if index not in progress.updated:
            assert bucket.reduced_S is not None
            hyper = progress.hypers[bucket.place.group]
            self.shards[index].update(self._rule, hyper, progress.used, coefficient, bucket.reduced_S)
            progress.updated.add(index)

    def _update_mirrors(self, progress: Progress, coefficient: float) -> None:
        if not progress.mirrored:
            for bucket in self._moving(progress):
                self.mirrors.update(bucket, self._rule, progress.hypers, progress.used, coefficient)
            progress.mirrored = True

    def _keep_residuals(self, progress: Progress) -> None:
        if not self.outstanding.delay and not progress.kept:
            self.reducer.commit()
            progress.kept = True

    # -- between islands -------------------------------------------------------------------------------------

    def agree_islands(self, hypers: Sequence[Hyper], wake: Callable[[LiveBucket], None], begin: int = 0) -> None:
        """What islands do together after the step that was just made, from stage ``begin`` on. Collective."""
        step = self.step_number - 1
        plan = self._schedule.at(step)
        if not plan.gradients:
            self.agreement.note_own_step()
            self.restless = self.agreement.restless = False
        try:
            self.agreement.run(plan, step, in_words(self._rule, hypers), hypers, wake, begin)
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
        self.restless |= self.agreement.restless
        self._meter.close_step(ends_period=plan.gradients or bool(plan.averages or plan.land))


def _refresh(agreement: Agreement, mirrors: Mirrors, slot: LiveSlot) -> None:
    """A parameter was changed from outside, on all ranks."""
    agreement.refresh(slot)
    for mirror in mirrors.shards:
        mirror.refresh(slot)
