"""How a step begins: every rank says what it has, and all go on or none does.

Incomplete and rewritten buckets are sent (again), buckets that some rank used for the first time are woken, parameters
that were changed from outside are taken over where they were changed alike, and what makes the step impossible on one
rank is raised on all.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adamesh.comm.base import Communicator
from adamesh.engine.bucket import LiveBucket, LiveSlot
from adamesh.engine.header import Flags, Header
from adamesh.engine.meter import Meter
from adamesh.engine.owner import Shard
from adamesh.engine.reducer import Reducer
from adamesh.engine.rows import RowStep
from adamesh.errors import AdameshError, ConfigurationError, GradientError, ParameterError, StepOutOfSync
from adamesh.membership.base import Membership
from adamesh.rules.base import Hyper, Rule

__all__ = ["Opening", "Peers", "in_words"]

_EDITED = (
    "the gradient of {name!r} was changed after it was sent to the other workers (clip_grad_norm_, "
    "GradScaler.unscale_ or DistributedDataParallel around the model do that), so the change would be lost. Clip with "
    "Plan(max_grad_norm=...), scale with adamesh.GradScaler, leave the model unwrapped; or send in step() with "
    "Plan(overlap=False)"
)


@dataclass(frozen=True)
class Peers:
    """Who makes a step together: all workers, or those of an island."""

    comm: Communicator
    first: int
    """The first one's number among all workers."""

    def worker(self, rank: int) -> int:
        """The number among all workers of one of them."""
        return self.first + rank


class Opening:
    """Opens the steps of one optimizer on one rank.

    Args:
        reducer: the dense gradients.
        rows: the row-sparse ones.
        shards: this rank's slices, by bucket.
        rule: the update mathematics.
        membership: who takes part.
        meter: counts bytes and waiting.
        refreshed: told of each parameter that was changed from outside and taken over.
    """

    def __init__(
        self,
        reducer: Reducer,
        rows: RowStep,
        shards: Mapping[int, Shard],
        rule: Rule,
        membership: Membership,
        meter: Meter,
        refreshed: Callable[[LiveSlot], None],
    ) -> None:
        self._reducer = reducer
        self._rows = rows
        self._shards = shards
        self._rule = rule
        self._membership = membership
        self._meter = meter
        self._refreshed = refreshed
        self.note = b""
        """What the others are told in the next step's header."""
        self.notes: tuple[bytes, ...] = ()
        """What all have told in the last one's, by rank."""

    def agree(
        self, peers: Peers, hypers: Sequence[Hyper], loss_scale: float | None, wake: Callable[[LiveBucket], None]
    ) -> set[int]:
        """Exchange headers, send what must be sent (again); returns the parameters that some rank used. Collective.

        Args:
            peers: who makes the step together.
            hypers: the parameter groups.
            loss_scale: the factor in the gradients, under a gradient scaler.
            wake: makes a dormant bucket travel and gives it state.

        Raises:
            GradientError, ParameterError, ConfigurationError, StepOutOfSync: this step cannot be made, on any rank.
        """
        reducer, buckets = self._reducer, self._reducer.buckets
        work_s = self._meter.worked_s()
        reducer.depart()
        edited = reducer.inspect()
        slots = [slot for bucket in buckets for slot in bucket.slots] + self._rows.slots
        is_changed = [slot.changed for slot in slots]
        changed = [slot for slot, it_is in zip(slots, is_changed, strict=True) if it_is]
        failure: AdameshError | None = next(filter(None, map(_misfit, changed)), None)
        if failure is None and reducer.failure is not None:
            failure = GradientError(reducer.failure)
        elif failure is None and edited:
            failure = GradientError(_EDITED.format(name=edited[0].name))
        failure = failure or self._rows.inspect() or self._bad_hyper(hypers)
        settings = in_words(self._rule, hypers, loss_scale)
        mine = Header(
            epoch=self._membership.epoch,
            step=reducer.step_number,
            settings=_short_hash(settings.encode()),
            failed=failure is not None,
            work_s=work_s,
            resend=[bucket.rewritten for bucket in buckets],
            wide=[not bucket.wide and any(slot.wide_valid for slot in bucket.slots) for bucket in buckets],
            used=[slot.param.grad is not None for slot in slots],
            changed=is_changed,
            note=self.note,
        )
        messages = self._meter.exchange(peers.comm, mine.pack(), "step")
        headers = [Header.unpack(message, len(buckets), len(slots)) for message in messages]
        self._meter.work_s = tuple(header.work_s for header in headers)
        self.notes = tuple(header.note for header in headers)
        self._refuse(peers, headers, slots, settings, failure)
        if changed:
            self._take_over(peers, changed)

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
        reducer.refuse_lost()
        self._rows.wake(used, hypers)
        return used

    def _take_over(self, peers: Peers, changed: Sequence[LiveSlot]) -> None:
        """Take over what was written to parameters from outside, on all ranks, if it was the same on all."""
        for slot in changed:
            if slot.moved or not slot.aliased:
                slot.adopt()
            slot.param_version = -1  # changed, until it is known to be the same everywhere
        # Costs a read of what changed; this is a rare step (a loaded model, an average swapped in).
        digests = b"".join(_digest(slot) for slot in changed)
        answers = self._meter.exchange(peers.comm, digests, "changed")
        for rank, answer in enumerate(answers):
            if answer != answers[0]:
                theirs, first = (np.frombuffer(a, dtype=np.int64) for a in (answer, answers[0]))
                name = changed[int(np.flatnonzero(theirs != first)[0])].name
                self._reducer.settle()
                raise ParameterError(
                    f"parameter {name!r} was changed from outside, to another value on worker {peers.worker(rank)} "
                    f"than on worker {peers.worker(0)}: replicas would part. Call "
                    "adamesh.broadcast_module(model) on every worker after changing it"
                )
        for slot in changed:
            for shard in self._shards.values():
                shard.refresh(slot)
            self._rows.refresh(slot)
            self._refreshed(slot)
            slot.param_version = slot.param._version

    def _bad_hyper(self, hypers: Sequence[Hyper]) -> ConfigurationError | None:
        """Whether somebody (a scheduler, say) has set a hyper-parameter that the rule cannot work with."""
        try:
            for hyper in hypers:
                self._rule.check(hyper)
            for shard in self._shards.values():
                hyper = hypers[shard.bucket.place.group]
                missing = set(self._rule.state_names(hyper)) - shard.state_S.keys()
                if missing:
                    return ConfigurationError(
                        f"a parameter group was changed so that it needs {sorted(missing)}, which it has not kept from "
                        "the start (amsgrad, for one, cannot be switched on later): build a new optimizer"
                    )
            return self._rows.check(hypers)
        except ConfigurationError as error:
            return error
        except (TypeError, ValueError, KeyError) as error:
            given = {key: value for key, value in hyper.items() if key != "params"}
            return ConfigurationError(f"a hyper-parameter is missing or of the wrong kind ({error!r}): {given}")

    def _refuse(
        self,
        peers: Peers,
        headers: Sequence[Header],
        slots: Sequence[LiveSlot],
        settings: str,
        failure: AdameshError | None,
    ) -> None:
        """Raise, on every rank alike, if any rank's header says that this step cannot be made."""
        for rank, header in enumerate(headers):
            if (header.epoch, header.step) != (headers[0].epoch, headers[0].step):
                self._reducer.settle()
                raise StepOutOfSync(
                    f"worker {peers.worker(rank)} is at step {header.step} (epoch {header.epoch}), worker "
                    f"{peers.worker(0)} at step {headers[0].step} (epoch {headers[0].epoch}): every worker must call "
                    "step() equally often. Give all workers the same number of batches, or load the same checkpoint on "
                    "all"
                )
        if any(header.failed for header in headers):
            reasons = peers.comm.exchange(_encode(failure), "errors")
            self._reducer.settle()
            raise _decode(reasons, peers.worker(0))
        if any(header.settings != headers[0].settings for header in headers):
            found = peers.comm.exchange(settings.encode(), "settings")
            self._reducer.settle()
            rank = next(rank for rank, text in enumerate(found) if text != found[0])
            raise ConfigurationError(
                f"worker {peers.worker(rank)} has hyper-parameters {found[rank].decode()} and worker "
                f"{peers.worker(0)} {found[0].decode()}; "
                "slices of one parameter would be updated differently. Set them alike on all workers; a scheduler that "
                "looks at the loss must be given the mean over workers"
            )
        changed = np.array([header.changed for header in headers], dtype=bool)
        parted = np.flatnonzero(changed.any(axis=0) & ~changed.all(axis=0))
        if parted.size:
            slot, ranks = slots[parted[0]], [peers.worker(int(r)) for r in np.flatnonzero(changed[:, parted[0]])]
            self._reducer.settle()
            raise ParameterError(
                f"parameter {slot.name!r} was changed from outside on worker(s) {ranks} but not on all "
                f"{len(headers)}: replicas would part. Change it on every worker, or call "
                "adamesh.broadcast_module(model) on every worker afterwards"
            )


def in_words(rule: Rule, hypers: Sequence[Hyper], loss_scale: float | None = None) -> str:
    """The hyper-parameters of all groups and the loss scale, in words that are the same for the same numbers."""
    names = rule.hyper_names
    plain = [{n: h[n].item() if isinstance(h[n], Tensor) else h[n] for n in names if n in h} for h in hypers]
    words = [f"group {index}: {group}" for index, group in enumerate(plain)]
    return "; ".join(words if loss_scale is None else [*words, f"loss scale {loss_scale}"])


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
