"""One step: begin, exchange, vote, commit or abort. Until the commit, nothing a step touches has changed.

    header   who has what: incomplete and rewritten buckets, used slots, parameters changed from outside, errors
    drain    every bucket has arrived and is summed
    vote     is everybody ready, and what is the norm of the mean gradient
    commit   update and gather, bucket by bucket

Where the schedule lets islands step alone, header and vote are the island's, and so is the step; what islands do
together afterwards is in `adamesh.engine.agreement`.

An error before the commit is raised on every rank and leaves parameters and state as they were. A commit that
is cut short leaves a *torn* optimizer, which says so and refuses to go on until it is loaded.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adamesh.comm.base import Communicator
from adamesh.engine.agreement import Agreement
from adamesh.engine.bucket import LiveBucket, LiveSlot
from adamesh.engine.gather import Gather
from adamesh.engine.header import Flags, Header, Vote
from adamesh.engine.meter import Meter, StepStats
from adamesh.engine.outstanding import Outstanding
from adamesh.engine.owner import Shard
from adamesh.engine.reducer import Reducer
from adamesh.engine.rows import RowStep
from adamesh.engine.wiring import Wiring
from adamesh.errors import (
    AdameshError,
    CommunicationError,
    ConfigurationError,
    GradientError,
    ParameterError,
    StateLost,
    StepOutOfSync,
)
from adamesh.membership.base import Membership
from adamesh.rules.base import Hyper, Rule
from adamesh.sync.base import Schedule

__all__ = ["Outcome", "Transaction"]

_EDITED = (
    "the gradient of {name!r} was changed after it was sent to the other workers (clip_grad_norm_ or "
    "GradScaler.unscale_ do that), so the change would be lost. Clip with Plan(max_grad_norm=...), scale with "
    "adamesh.GradScaler, or send in step() with Plan(overlap=False)"
)


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
            used = self._agree(hypers, loss_scale, wake)
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
    def _peers(self) -> Communicator:
        """Who makes the step together."""
        return self._mesh.world if self.reducer.islands_agree else self._mesh.shard

    def _worker(self, rank: int) -> int:
        """The number in the world of one of the peers."""
        return rank if self.reducer.islands_agree else rank + self._mesh.replicate.rank * self._mesh.shard.size

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

    # -- begin -----------------------------------------------------------------------------------------------

    def _agree(self, hypers: Sequence[Hyper], loss_scale: float | None, wake: Callable[[LiveBucket], None]) -> set[int]:
        """Exchange headers, send what must be sent (again); returns the parameters that some rank used."""
        reducer, buckets = self.reducer, self.reducer.buckets
        reducer.flush()
        edited = reducer.inspect()
        slots = [slot for bucket in buckets for slot in bucket.slots] + self.rows.slots
        is_changed = [slot.changed for slot in slots]
        changed = [slot for slot, it_is in zip(slots, is_changed, strict=True) if it_is]
        failure: AdameshError | None = next(filter(None, map(_misfit, changed)), None)
        if failure is None and reducer.failure is not None:
            failure = GradientError(reducer.failure)
        elif failure is None and edited:
            failure = GradientError(_EDITED.format(name=edited[0].name))
        failure = failure or self.rows.inspect() or self._bad_hyper(hypers)
        mine = Header(
            epoch=self._membership.epoch,
            step=self.step_number,
            settings=_short_hash(self._settings(hypers, loss_scale).encode()),
            failed=failure is not None,
            resend=[bucket.rewritten for bucket in buckets],
            wide=[not bucket.wide and any(slot.wide_valid for slot in bucket.slots) for bucket in buckets],
            used=[slot.param.grad is not None for slot in slots],
            changed=is_changed,
        )
        messages = self._meter.exchange(self._peers, mine.pack(), "step")
        headers = [Header.unpack(message, len(buckets), len(slots)) for message in messages]
        self._refuse(headers, slots, self._settings(hypers, loss_scale), failure)
        if changed:
            self._refresh(changed)

        some_used = _any_rank([header.used for header in headers])
        some_wide = _any_rank([header.wide for header in headers])
        some_resend = _any_rank([header.resend for header in headers])
        used = {slot.place.param for slot, it_is in zip(slots, some_used, strict=True) if it_is}
        for bucket, wide, again in zip(buckets, some_wide, some_resend, strict=True):
            stirred = not bucket.awake and any(slot.place.param in used for slot in bucket.slots)
            if stirred:
                wake(bucket)
            if stirred or wide or again:
                reducer.resend(bucket, wide)
        self.rows.wake(used, hypers)
        return used

    def _refresh(self, changed: Sequence[LiveSlot]) -> None:
        """Take over what was written to parameters from outside, on all ranks, if it was the same on all."""
        for slot in changed:
            if slot.moved or not slot.aliased:
                slot.adopt()
            slot.param_version = -1  # changed, until it is known to be the same everywhere
        # Costs a read of what changed; this is a rare step (a loaded model, an average swapped in).
        digests = b"".join(_digest(slot) for slot in changed)
        answers = self._meter.exchange(self._peers, digests, "changed")
        for rank, answer in enumerate(answers):
            if answer != answers[0]:
                theirs, first = (np.frombuffer(a, dtype=np.int64) for a in (answer, answers[0]))
                name = changed[int(np.flatnonzero(theirs != first)[0])].name
                self.reducer.settle()
                raise ParameterError(
                    f"parameter {name!r} was changed from outside, to another value on worker {self._worker(rank)} "
                    f"than on worker {self._worker(0)}: replicas would part. Call "
                    "adamesh.broadcast_module(model) on every worker after changing it"
                )
        for slot in changed:
            for shard in self.shards.values():
                shard.refresh(slot)
            self.rows.refresh(slot)
            self.agreement.refresh(slot)
            slot.param_version = slot.param._version

    def _bad_hyper(self, hypers: Sequence[Hyper]) -> ConfigurationError | None:
        """Whether somebody (a scheduler, say) has set a hyper-parameter that the rule cannot work with."""
        try:
            for hyper in hypers:
                self._rule.check(hyper)
            for shard in self.shards.values():
                hyper = hypers[shard.bucket.place.group]
                missing = set(self._rule.state_names(hyper)) - shard.state_S.keys()
                if missing:
                    return ConfigurationError(
                        f"a parameter group was changed so that it needs {sorted(missing)}, which it has not kept from "
                        "the start (amsgrad, for one, cannot be switched on later): build a new optimizer"
                    )
            return self.rows.check(hypers)
        except ConfigurationError as error:
            return error
        except (TypeError, ValueError, KeyError) as error:
            given = {key: value for key, value in hyper.items() if key != "params"}
            return ConfigurationError(f"a hyper-parameter is missing or of the wrong kind ({error!r}): {given}")

    def _settings(self, hypers: Sequence[Hyper], loss_scale: float | None) -> str:
        """The hyper-parameters of all groups and the loss scale, in words that are the same for the same numbers."""
        names = self._rule.hyper_names
        plain = [{n: h[n].item() if isinstance(h[n], Tensor) else h[n] for n in names if n in h} for h in hypers]
        words = [f"group {index}: {group}" for index, group in enumerate(plain)]
        return "; ".join(words if loss_scale is None else [*words, f"loss scale {loss_scale}"])

    def _refuse(
        self,
        headers: Sequence[Header],
        slots: Sequence[LiveSlot],
        settings: str,
        failure: AdameshError | None,
    ) -> None:
        """Raise, on every rank alike, if any rank's header says that this step cannot be made."""
        for rank, header in enumerate(headers):
            if (header.epoch, header.step) != (headers[0].epoch, headers[0].step):
                self.reducer.settle()
                raise StepOutOfSync(
                    f"worker {self._worker(rank)} is at step {header.step} (epoch {header.epoch}), worker "
                    f"{self._worker(0)} at step {headers[0].step} (epoch {headers[0].epoch}): every worker must call "
                    "step() equally often. Give all workers the same number of batches, or load the same checkpoint on "
                    "all"
                )
        if any(header.failed for header in headers):
            reasons = self._peers.exchange(_encode(failure), "errors")
            self.reducer.settle()
            raise _decode(reasons, self._worker(0))
        if any(header.settings != headers[0].settings for header in headers):
            found = self._peers.exchange(settings.encode(), "settings")
            self.reducer.settle()
            rank = next(rank for rank, text in enumerate(found) if text != found[0])
            raise ConfigurationError(
                f"worker {self._worker(rank)} has hyper-parameters {found[rank].decode()} and worker "
                f"{self._worker(0)} {found[0].decode()}; "
                "slices of one parameter would be updated differently. Set them alike on all workers; a scheduler that "
                "looks at the loss must be given the mean over workers"
            )
        changed = np.array([header.changed for header in headers], dtype=bool)
        parted = np.flatnonzero(changed.any(axis=0) & ~changed.all(axis=0))
        if parted.size:
            slot, ranks = slots[parted[0]], [self._worker(int(r)) for r in np.flatnonzero(changed[:, parted[0]])]
            self.reducer.settle()
            raise ParameterError(
                f"parameter {slot.name!r} was changed from outside on worker(s) {ranks} but not on all "
                f"{len(headers)}: replicas would part. Change it on every worker, or call "
                "adamesh.broadcast_module(model) on every worker afterwards"
            )

    # -- exchange and vote -----------------------------------------------------------------------------------

    def _drain(self, used: set[int], loss_scale: float | None, to_measure: str | None) -> tuple[float, float]:
        """Sum all buckets and vote; returns the squared norm of the mean gradient, and what the rule measures."""
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
        messages = self._meter.exchange(self._peers, Vote(failure is not None, squares, measured).pack(), "vote")
        votes = [Vote.unpack(message) for message in messages]
        failed = [self._worker(rank) for rank, vote in enumerate(votes) if vote.failed]
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
            self.agreement.run(plan, step, self._settings(hypers, None), hypers, wake)
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


def _any_rank(flags: Sequence[Flags]) -> list[bool]:
    by_rank = np.array(flags, dtype=bool)
    return [bool(flag) for flag in np.logical_or.reduce(by_rank, axis=0)]


def _digest(slot: LiveSlot) -> bytes:
    """Eight bytes that tell a parameter's bits from others."""
    bits = slot.value.detach().cpu().view(torch.uint8).numpy().tobytes()
    return _short_hash(bits)


def _short_hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=8).digest()


def _misfit(slot: LiveSlot) -> ParameterError | None:
    """Whether a parameter changed in a way that its place in the bucket cannot follow."""
    if slot.fits:
        return None
    return ParameterError(
        f"parameter {slot.name!r} is now {tuple(slot.param.shape)} {slot.param.dtype} on {slot.param.device}, which is "
        "not what the optimizer was built with. Build the optimizer after moving, casting or resizing the model"
    )


_KINDS: tuple[type[AdameshError], ...] = (GradientError, ParameterError, ConfigurationError)


def _encode(failure: AdameshError | None) -> bytes:
    if failure is None:
        return b""
    kind = next(index for index, known in enumerate(_KINDS) if isinstance(failure, known))
    return bytes([kind]) + str(failure).encode()


def _decode(reasons: Sequence[bytes], first: int) -> AdameshError:
    """The lowest failed rank's error, so that all ranks raise the same one; ``first`` is the first rank's number."""
    rank = next(rank for rank, reason in enumerate(reasons) if reason)
    return _KINDS[reasons[rank][0]](f"on worker {first + rank}: {reasons[rank][1:].decode()}")
