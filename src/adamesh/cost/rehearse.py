"""One worker's steps, rehearsed: the real model, optimizer and codecs, with nobody else there.

The other workers are silent (`adamesh.cost.trace`), and the tensors may be on paper (`adamesh.cost.paper`) or real.
Bytes, state and buffers are what the engine's own meter says of its own layout: there is no formula for them here.

Steps that do the same are rehearsed once: a schedule's period is gone through in its order, and of each different
`SyncPlan` in it one step is made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch

from adamesh.cost.case import Case
from adamesh.cost.paper import Speed, Tally, on_paper
from adamesh.cost.trace import Recorder, Trace, silent_mesh, typical
from adamesh.engine.meter import StepStats
from adamesh.errors import AdameshError
from adamesh.optimizer import MeshOptimizer
from adamesh.sync.base import SyncPlan
from adamesh.train.names import build_optimizer, build_plan
from adamesh.train.settings import PlanSettings

__all__ = ["Memory", "Rehearsed", "Stage", "StepKind", "rehearse_on_paper"]

_PAPER_ROUNDS = 2
"""After the first, buffers that are made on first use are there, and fragments on their way have come around."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one worker's device."""

    parameters: int
    gradients: int
    state: int
    """Moments, masters, anchors, mirrors, and what codecs hold back."""
    exchange: int
    """Where bytes from others land, payloads, and scratch."""
    activations: int
    """What forward keeps for backward, and everything else that lives only during a step, at its most."""
    other: int
    """Buffers of the model, the batch."""
    peak: int
    """The most at any time; building the optimizer may need more than a step."""


@dataclass(frozen=True)
class StepKind:
    """A step as the schedule has it now and then."""

    trace: Trace
    bytes_up: int
    bytes_down: int
    bytes_control: int


@dataclass(frozen=True)
class Rehearsed:
    """What a plan does."""

    period: tuple[int, ...]
    """Which kind each step of a period is."""
    kinds: tuple[StepKind, ...]
    works_s: tuple[float, ...]
    """A worker's own seconds of each step that was rehearsed, where they were real ones."""
    param_count: int
    state_bytes: int
    memory: Memory | None = None
    """None where nothing was counted."""
    flops: int = 0
    """Of one step of one worker."""
    not_traced: str | None = None
    """Why the model was run for real to count its memory, if it was."""

    @property
    def counted(self) -> Memory:
        """The memory, of one that was counted."""
        assert self.memory is not None
        return self.memory

    @property
    def traces(self) -> list[Trace]:
        """The steps of a period."""
        return [self.kinds[kind].trace for kind in self.period]

    def mean(self, of: Callable[[StepKind], float]) -> float:
        """Over the steps of a period."""
        return sum(of(self.kinds[kind]) for kind in self.period) / len(self.period)

    @property
    def bytes_up(self) -> float:
        """A step, the mean over a period."""
        return self.mean(lambda kind: kind.bytes_up)

    @property
    def bytes_down(self) -> float:
        """A step, the mean over a period."""
        return self.mean(lambda kind: kind.bytes_down)


def rehearse_on_paper(case: Case, settings: PlanSettings, speed: Speed) -> Rehearsed:
    """Count memory, bytes and FLOPs, and estimate seconds by a device's speed.

    A model that cannot be traced without numbers (it looks at them, or calls what torch does not know) is run for real.
    """
    tally = Tally(speed)
    batches = case.micro_batches()
    try:
        with on_paper(tally) as put:
            return _counted(case, settings, put(batches), tally)
    except AdameshError:
        raise
    # Whatever a model does that has no meaning without numbers: torch has many errors for it, and a task its own.
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}"
        tally = Tally(speed)
        with tally:
            found = _counted(case, settings, batches, tally)
        return replace(found, not_traced=reason)


class Stage:
    """Model and optimizer of one worker, and who watches them.

    Args:
        case: what is trained.
        settings: the plan.
        batches: the worker's share of a batch.
        tally: counts, and tells the time; None: the machine's own clock does.
    """

    def __init__(self, case: Case, settings: PlanSettings, batches: Sequence[Any], tally: Tally | None = None) -> None:
        world = case.world
        islands = settings.num_islands(world)
        self._case = case
        self._batches = batches
        self._tally = tally
        self._recorder = Recorder(perf_counter if tally is None else tally.read_clock)
        mesh = silent_mesh(islands, world // islands, self._recorder)
        # One island, so that no process group is needed; the mesh says how many there are.
        rule, guard = case.config.optim.rule, case.config.plans_guard
        plan = build_plan(replace(settings, islands=1), torch.device("cpu"), world, rule, guard)
        self._schedule = plan.sync
        self._period = settings.schedule.h * (6 if settings.schedule.kind == "des-loc" else 1)
        self._first = max(settings.exact_steps, self._period)
        self._model = case.build_model()
        plan = replace(plan, mesh=mesh, compile=False if tally is not None else plan.compile)
        optimizer = build_optimizer(case.config.optim, self._model, plan)
        assert isinstance(optimizer, MeshOptimizer)
        self._optimizer = optimizer
        self._kinds = self._find_kinds()
        self._traces: list[list[Trace]] = [[] for _ in self._kinds]
        self._stats: list[StepStats] = []
        self._rounds = 0
        self._go_to(self._first - 1)
        case.step(self._model, optimizer, batches)
        self._build_peak, self._flops = (0, 0) if tally is None else (tally.peak_bytes, tally.flops)
        if tally is not None:
            tally.forget_peak()

    def round(self) -> None:
        """Go through the period's kinds of steps once."""
        self._stats = []
        if self._tally is None:
            # One that is not timed brings back to caches what other plans displaced.
            self._go_to(self._first + self._rounds * self._period - 1)
            self._case.step(self._model, self._optimizer, self._batches)
        for kind, step in enumerate(self._kinds.values()):
            self._go_to(step + self._rounds * self._period)
            self._recorder.begin()
            self._case.step(self._model, self._optimizer, self._batches)
            self._traces[kind].append(self._recorder.end())
            self._stats.append(self._optimizer.stats())
        self._rounds += 1

    def seen(self) -> Rehearsed:
        """What there was to see in all rounds."""
        kinds = tuple(
            StepKind(typical(traces), stats.bytes_up, stats.bytes_down, stats.bytes_control)
            for traces, stats in zip(self._traces, self._stats, strict=True)
        )
        order, steps = list(self._kinds), range(self._first, self._first + self._period)
        tally, last = self._tally, self._stats[-1]
        return Rehearsed(
            period=tuple(order.index(self._schedule.at(step)) for step in steps),
            kinds=kinds,
            works_s=() if tally is not None else tuple(trace.work_s for traces in self._traces for trace in traces),
            param_count=sum(p.numel() for p in self._model.parameters()),
            state_bytes=last.state_bytes,
            memory=None if tally is None else _memory(self._optimizer, tally, last, self._build_peak),
            flops=0 if tally is None else (tally.flops - self._flops) // (self._rounds * len(kinds)),
        )

    def _find_kinds(self) -> dict[SyncPlan, int]:
        """The first step of each kind, in order."""
        first: dict[SyncPlan, int] = {}
        for step in range(self._first, self._first + self._period):
            first.setdefault(self._schedule.at(step), step)
        return first

    def _go_to(self, step: int) -> None:
        self._optimizer.engine.transaction.go_on_from(step)


def _counted(case: Case, settings: PlanSettings, batches: Sequence[Any], tally: Tally) -> Rehearsed:
    stage = Stage(case, settings, batches, tally)
    for _ in range(_PAPER_ROUNDS):
        stage.round()
    return stage.seen()


def _memory(optimizer: MeshOptimizer, tally: Tally, stats: StepStats, build_peak: int) -> Memory:
    """What is held between steps, by what it is for; what a step adds to it; and the most there ever was."""
    buckets = optimizer.engine.buckets
    parameters = sum(_bytes(bucket.param_N) for bucket in buckets)
    gradients = sum(_bytes(buffer) for bucket in buckets for buffer in (bucket.grad_N, bucket.wide_N))
    exchange = stats.buffer_bytes - parameters - gradients
    held = parameters + gradients + exchange + stats.state_bytes
    return Memory(
        parameters=parameters,
        gradients=gradients,
        state=stats.state_bytes,
        exchange=exchange,
        activations=tally.peak_bytes - tally.live_bytes,
        other=tally.live_bytes - held,
        peak=max(tally.peak_bytes, build_peak),
    )


def _bytes(buffer: torch.Tensor | None) -> int:
    return 0 if buffer is None else buffer.numel() * buffer.element_size()
