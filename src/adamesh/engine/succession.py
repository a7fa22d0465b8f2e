"""From one epoch's engine to the next one's: among the workers that are left, and those that have come.

    words      how far is everybody, and what was decided last
    make good  who missed a vote that others have seen does what it decided, with what is here
    build      buckets, ways and slices for the new number of workers
    inherit    each slice from whoever holds it: its owner, or a mirror
    publish    fresh parameters to every worker

Where islands step alone, each keeps what it has, and a newcomer takes everything from the one that is least far.

Until the last of these is done everywhere, what the old engine holds is left as it was: if another worker is lost
meanwhile, all of it begins again with those who are left then.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch.autograd.graph import increment_version

from adamesh.comm.base import Communicator
from adamesh.comm.company import Formation
from adamesh.engine.agreement import LEAVES, Decision
from adamesh.engine.delivery import ExactDelivery
from adamesh.engine.engine import Engine, without_params
from adamesh.engine.fit import restore_group
from adamesh.engine.inheritance import Want, bequeathed
from adamesh.engine.islands_state import OWN_VALUE, SHARED, sync_record
from adamesh.engine.residuals import own_runs
from adamesh.engine.runs import HeldRun, PieceSource
from adamesh.engine.state_dict import MASTER, OWN_RESIDUALS, export_mirrors, export_pieces, restore
from adamesh.engine.transaction import Transaction
from adamesh.engine.verdict import Verdict
from adamesh.errors import LayoutError, StateLost, StepOutOfSync

__all__ = ["Estate", "resume_agreement", "succeed"]


def transaction_of(engine: Engine) -> Transaction:
    """What makes an engine's steps."""
    assert isinstance(engine.transaction, Transaction), "plans refuse pushes among workers that come and go"
    return engine.transaction


@dataclass
class Estate:
    """What one worker brings from the epochs before."""

    engine: Engine
    earlier: Engine | None = None
    """The engine before that: some workers may not have come further, until a step is made in the new epoch."""
    handed: list[HeldRun] = field(default_factory=list)
    """What those who go have left here, after `handed_at` steps."""
    handed_at: int = -1

    @property
    def transaction(self) -> Transaction:
        """The engine's."""
        return transaction_of(self.engine)

    @property
    def is_lost(self) -> bool:
        """Nothing in it is of use before a checkpoint is loaded."""
        return isinstance(self.transaction.broken, StateLost) and self.transaction.progress is None

    def runs(self) -> list[HeldRun]:
        """Everything that is held here of slices, masters included, as views."""
        runs = _runs(self.engine)
        if self.earlier is not None:
            at = self.earlier.transaction.step_number
            runs += _runs(self.earlier) if at == self.transaction.step_number else []
        return runs + (self.handed if self.handed_at == self.transaction.step_number else [])

    def hand_over(self, leaving: bool) -> None:
        """Before a change that is planned: who stays gets the slices of those who go. Collective in the old epoch.

        Args:
            leaving: this worker goes.
        """
        island = self.engine.mesh.shard
        going = [bool(message[0]) for message in island.exchange(bytes([leaving]), "hand over")]
        if not any(going) or all(going) or island.size == 1:
            return
        steps = {slot.name: slot.steps for slot in self.engine.slots}
        wants: list[list[Want]] = [[] for _ in going]
        for rank, goes in enumerate(going):
            if goes:
                heir = next(r for r in ((rank + d) % island.size for d in range(1, island.size)) if not going[r])
                wants[heir] += _slices(self.engine, rank, steps)
        self.handed = bequeathed(island, _runs(self.engine), wants, self.engine.device)
        self.handed_at = self.transaction.step_number


@dataclass(frozen=True)
class Word:
    """What one worker says of itself when an epoch begins."""

    step: int
    """Steps made."""
    verdict: dict[str, Any] | None
    decision: dict[str, Any] | None
    agreeing: int | None
    """The step after which islands are not done with what they do together."""
    head: dict[str, Any]
    """What its state is beside tensors."""


def succeed(
    formation: Formation,
    old: Estate | None,
    build: Callable[[bool], Engine],
    hypers: Sequence[dict[str, Any]],
    gradients: bool,
) -> Engine:
    """Build the engine of an epoch that has begun. Collective among its workers.

    It has made the step that was under way if anybody had seen all votes; else that has to be made again. If what the
    lost workers held is held by nobody else, it is broken, which a checkpoint mends.

    Args:
        formation: the epoch.
        old: what this worker brings; None for one that has just come.
        build: makes an engine for the epoch, with the first worker's values in it or with this worker's own.
        hypers: the parameter groups; a newcomer's are overwritten.
        gradients: workers agree on gradients in every step; else each is an island that steps alone.

    Raises:
        CommunicationError: another worker was lost meanwhile; what ``old`` holds is as it was.
        StepOutOfSync: this worker has made another number of steps than others.
    """
    world = formation.world
    words = _words(world, old)
    known = [word for word in words if word is not None]
    if not known:
        return build(True)
    if old is not None:
        _make_good(old, known, hypers, gradients)
    engine = (_together if gradients else _apart)(world, old, words, build, hypers)
    watch = transaction_of(engine).watch
    if old is not None and watch is not None and old.transaction.watch is not None:
        watch.remember(old.transaction.watch)
    return engine


def _words(world: Communicator, old: Estate | None) -> list[Word | None]:
    mine = None if old is None else asdict(_word(old))
    found = [json.loads(message) for message in world.exchange(json.dumps(mine).encode(), "succession")]
    return [None if word is None else Word(**word) for word in found]


def _word(old: Estate) -> Word:
    transaction, engine = old.transaction, old.engine
    agreement = transaction.agreement
    head = {
        "steps": {slot.name: slot.steps for slot in engine.slots},
        "scalars": {slot.name: {k: v.item() for k, v in slot.scalars.items()} for slot in engine.slots if slot.scalars},
        "groups": [without_params(engine.hyper(group)) for group in range(len(engine.hypers))],
    }
    return Word(
        transaction.step_number,
        None if transaction.verdict is None else asdict(transaction.verdict),
        None if agreement.decision is None else asdict(agreement.decision),
        None if agreement.stage is None else agreement.stage.step,
        head,
    )


# -- what was decided ------------------------------------------------------------------------------------------


def _make_good(old: Estate, words: Sequence[Word], hypers: Sequence[dict[str, Any]], gradients: bool) -> None:
    """Do here what a vote has decided that this worker missed."""
    transaction = old.transaction
    if gradients:
        verdicts = [Verdict(**word.verdict) for word in words if word.verdict is not None]
        latest = max(verdicts, key=lambda verdict: verdict.step, default=None)
        if latest is not None and latest.step == transaction.step_number:
            outcome = transaction.make_good(latest)
            for hyper in hypers:
                hyper.update(outcome.entries)
        furthest = max([word.step for word in words] + ([] if latest is None else [latest.step + 1]))
        if transaction.step_number != furthest:
            raise StepOutOfSync(
                f"this worker has made {transaction.step_number} steps and another one {furthest}: every worker must "
                "call step() equally often. Give all workers the same number of batches"
            )
        return
    stage = transaction.agreement.stage
    decisions = [Decision(**word.decision) for word in words if word.decision is not None]
    here = None if stage is None or stage.apply is None else (stage.step, stage.number)
    decided = next((decision for decision in decisions if (decision.step, decision.number) == here), None)
    if decided is not None:
        transaction.agreement.make_good(decided)


# -- workers that step together --------------------------------------------------------------------------------


def _together(
    world: Communicator,
    old: Estate | None,
    words: Sequence[Word | None],
    build: Callable[[bool], Engine],
    hypers: Sequence[dict[str, Any]],
) -> Engine:
    """Slices are cut anew; each comes from whoever holds it."""
    # After the making good: heads are those of the step that is made everywhere now.
    heads = [word for word in _words(world, old) if word is not None]
    head, step = heads[0].head, heads[0].step
    if old is None:
        _take_groups(hypers, head)
    engine = build(any(word is None for word in words))
    # Somebody may be lost before all are here, and who is not will ask again.
    transaction_of(engine).verdict = None if heads[0].verdict is None else Verdict(**heads[0].verdict)
    moved = [bucket for bucket in engine.buckets if any(head["steps"][slot.name] for slot in bucket.slots)]
    for bucket in moved:
        if not bucket.awake:
            engine.wake(bucket)
    wants = [_slices(engine, rank, head["steps"]) for rank in range(world.size)]
    try:
        got = bequeathed(world, old.runs() if old is not None else [], wants, engine.device)
    except LayoutError as error:
        lost = StateLost(
            f"workers were lost that held what nobody else does ({error}): parameters and optimizer state of step "
            f"{step} are incomplete. Load a checkpoint with adamesh.load, which goes on with the {world.size} workers "
            "that are left; a higher Plan(redundancy=...) outlives the loss of more workers at once"
        )
        lost.__cause__ = error
        engine.transaction.broken = lost
        return engine
    got += _residuals(old.engine, engine) if old is not None else []
    restore(engine, PieceSource(got, head["steps"], head["scalars"]), step)
    source = PieceSource([run for run in got if MASTER in run.tensors], head["steps"])
    down = ExactDelivery(engine.mesh.shard)
    works = []
    with torch.no_grad():
        for bucket in moved:
            shard = engine.transaction.shards[bucket.place.index]
            for piece in shard.pieces:
                piece.master.copy_(source.read(piece.slot.name, MASTER, piece.place.start, piece.place.stop))
            works.append((bucket, down.launch(shard, set(), step)[0]))
        for bucket, work in works:
            if work is not None:
                work.wait()
            for slot in bucket.slots:
                if slot.aliased:
                    increment_version(slot.param)
                slot.publish()
    return engine


def _slices(engine: Engine, rank: int, steps: Mapping[str, int]) -> list[Want]:
    """What a rank keeps up: its own slices and those that it mirrors, of buckets that were ever updated."""
    size, mirrors = engine.mesh.shard.size, len(engine.owners)
    wants = []
    for bucket in engine.buckets:
        names = {slot.place.param: slot.name for slot in bucket.slots}
        if not any(steps[name] for name in names.values()):
            continue
        keys = (*engine.state_names(bucket), MASTER)
        for distance in range(mirrors):
            pieces = engine.layout.pieces(bucket.place.index, (rank - distance) % size)
            wants += [Want(names[piece.param], keys, piece.start, piece.stop) for piece in pieces]
    return wants


def _runs(engine: Engine) -> list[HeldRun]:
    """All slices held, masters included."""
    masters = {
        (piece.slot.name, piece.place.start): piece.master
        for shard in engine.transaction.shards.values()
        for piece in shard.pieces
    }
    own = [replace(run, tensors={**run.tensors, MASTER: masters[run.name, run.start]}) for run in export_pieces(engine)]
    return own + export_mirrors(engine)


def _residuals(old: Engine, new: Engine) -> list[HeldRun]:
    """What this worker's codecs have held back stays with it; what it has newly to keep begins at zero."""
    held = own_runs(old)
    runs = []
    for name, kind, start, stop, target in own_runs(new):
        kept = torch.zeros_like(target)
        for other, its, low, high, values in held:
            first, last = max(start, low), min(stop, high)
            if (other, its) == (name, kind) and first < last:
                kept[first - start : last - start].copy_(values[first - low : last - low])
        runs.append(HeldRun(name, start, stop, {OWN_RESIDUALS[kind]: kept}))
    return runs


# -- islands that step alone -----------------------------------------------------------------------------------


def _apart(
    world: Communicator,
    old: Estate | None,
    words: Sequence[Word | None],
    build: Callable[[bool], Engine],
    hypers: Sequence[dict[str, Any]],
) -> Engine:
    """Each island keeps what it has; a newcomer takes all of it from the one that is least far."""
    known = [(word.step, rank) for rank, word in enumerate(words) if word is not None]
    giver = min(known)[1]
    outer = old.transaction.agreement.outer if old is not None else None
    if outer is not None:
        outer.drop(list(outer.left))
    # Heads again: a making good may have changed them.
    mine = None if old is None else {"head": _word(old).head, "sync": _sync(old.engine)}
    found = [json.loads(message) for message in world.exchange(json.dumps(mine).encode(), "succession")]
    given = found[giver] if old is None else found[world.rank]
    if old is None:
        _take_groups(hypers, given["head"])
    engine = build(False)
    if old is not None:
        engine.transaction.agreement.decision = old.transaction.agreement.decision
    steps = given["head"]["steps"]
    step, runs = (min(known)[0], []) if old is None else (old.transaction.step_number, _island(old.engine))
    wants = [_everything(engine, steps) if word is None else [] for word in words]
    got = bequeathed(world, runs if world.rank == giver else [], wants, engine.device)
    got = got if old is None else [*runs, *_residuals(old.engine, engine)]
    restore(engine, PieceSource(got, steps, given["head"]["scalars"], given["sync"]), step)
    engine.transaction.agreement.params_apart = engine.transaction.agreement.state_apart = world.size > 1
    next_steps = [word.step if word.agreeing is None else word.agreeing for word in words if word is not None]
    engine.transaction.agreement.not_before = max(next_steps)
    return engine


def _sync(engine: Engine) -> dict[str, Any]:
    """What is to be known of an island, with no word about others, whose numbers have changed."""
    return {key: value for key, value in sync_record(engine).items() if key != "heads"} | {"known": {}}


def _everything(engine: Engine, steps: Mapping[str, int]) -> list[Want]:
    """All of an island's state."""
    outer = engine.transaction.agreement.outer
    wants = []
    for bucket in engine.buckets:
        for slot in bucket.slots:
            keys: tuple[str, ...] = (OWN_VALUE,)
            if any(steps[other.name] for other in bucket.slots):
                keys += (*engine.state_names(bucket), *((MASTER,) if engine.keeps_master(bucket) else ()))
                if outer is not None:
                    keys += SHARED[: 2 if outer.outer.rule.momentum else 1]
            wants.append(Want(slot.name, keys, 0, slot.value.numel()))
    return wants


def _island(engine: Engine) -> list[HeldRun]:
    """All of this island's state, and its parameters."""
    values = {slot.name: slot.value for slot in engine.slots}
    return [
        *export_pieces(engine),
        *(HeldRun(name, 0, value.numel(), {OWN_VALUE: value}) for name, value in values.items()),
    ]


def resume_agreement(old: Estate, engine: Engine, hypers: Sequence[dict[str, Any]]) -> None:
    """Do what islands had still to do together when the epoch ended. Collective between those that had."""
    stage = old.transaction.agreement.stage
    last = LEAVES if old.transaction.agreement.outer is not None else 0
    if stage is not None and stage.number <= last:
        transaction_of(engine).agree_islands(hypers, engine.wake, stage.number)


def _take_groups(hypers: Sequence[dict[str, Any]], head: Mapping[str, Any]) -> None:
    for group, saved in zip(hypers, head["groups"], strict=True):
        restore_group(group, saved)
