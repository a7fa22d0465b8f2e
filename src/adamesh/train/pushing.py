"""Training at every worker's own speed: from one pause of all workers to the next."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal

import torch
from torch import nn

from adamesh.data.seeds import derived_seed
from adamesh.errors import Diverged
from adamesh.optimizer import MeshOptimizer
from adamesh.train.evaluate import to_device
from adamesh.train.fate import Fate, PushingReport, WorkerSamples
from adamesh.train.record import Recorder
from adamesh.train.run import Run, Totals
from adamesh.train.schedules import lr_factor
from adamesh.train.ticket_loader import Ticket, TicketLoader
from adamesh.train.tickets import Tickets
from adamesh.train.vitals import Vitals

__all__ = ["Stretches"]

_MOST_LOSSES_LOST = 10
"""So many losses of one worker that are not finite, one after the other, end the run."""


@dataclass
class Stretch:
    """What this worker did since the last pause."""

    samples: int = 0
    loss_sum: float = 0.0
    """Of all samples."""
    last_loss: float = 0.0
    data_wait_s: float = 0.0


class Stretches:
    """Takes this worker from pause to pause.

    Args:
        run: whose.
        model: on the run's device, in training mode.
        optimizer: of the model's parameters, with ``sync=Async(...)``.
        initial_lrs: the learning rates that the schedule scales, by group.
        recorder: takes down each of this worker's steps; the first worker's are shown and written.
    """

    def __init__(
        self, run: Run, model: nn.Module, optimizer: MeshOptimizer, initial_lrs: list[float], recorder: Recorder
    ) -> None:
        self.step_under_way = 0
        self._run = run
        self._model = model
        self._optimizer = optimizer
        self._initial_lrs = initial_lrs
        self._recorder = recorder
        self._vitals = Vitals(model, run.config.log_every)
        self._total_steps = run.total_steps()
        self._sampler = run.sampler()
        self._tickets: Tickets | None = None
        self._loader: TicketLoader | None = None
        self._fate = Fate()
        self._losses_lost = 0

    def advance(
        self, totals: Totals, until: int, interrupted: Callable[[], bool], is_late: Callable[[float], bool]
    ) -> Literal["interrupted", "time"] | None:
        """Train until all tickets of the global batches before number ``until`` are used. Collective at its end.

        Args:
            totals: brought up to date, alike on all workers.
            until: where the next pause is.
            interrupted: whether somebody has asked this worker to stop.
            is_late: whether the run's time is over after a stretch of so many seconds.

        Returns:
            Why the run was stopped, maybe before ``until``; the same on every worker. None: it was not.
        """
        run, size = self._run, self._run.workers.size
        if self._tickets is None or self._loader is None:
            self._tickets = Tickets(run.workers, totals.steps, self._total_steps)
            self._loader = TicketLoader(run, self._tickets)
        began_s = time.perf_counter()
        stretch, told = Stretch(), False
        self._optimizer.serve()
        while True:
            if not told and (interrupted() or is_late(time.perf_counter() - began_s)):
                told = True
                self._tickets.stop()
            waiting_s = time.perf_counter()
            ticket = self._loader.next()
            if ticket is None or ticket.number >= until * size:
                break
            stretch.data_wait_s += time.perf_counter() - waiting_s
            if ticket.parts:
                self._step(ticket, totals, stretch, began_s)
            self._loader.used()
        end = min(until, self._tickets.end_steps)
        return self._pause(totals, stretch, end, began_s, interrupted())

    def report(self) -> PushingReport:
        """What became of all workers' pushes. Collective."""
        workers, fate = self._run.workers, self._fate
        before, after = 3 * workers.rank, 3 * (workers.size - workers.rank - 1)
        sums = workers.sum([0.0] * before + [fate.accepted, fate.stale, fate.non_finite] + [0.0] * after)
        samples = [WorkerSamples(*sums[3 * rank : 3 * rank + 3]) for rank in range(workers.size)]
        pushes = self._optimizer.stats().pushes
        assert pushes is not None
        farthest = int(workers.gather(torch.tensor([max(pushes.staleness, default=0)])).max())
        counts = workers.sum([float(pushes.staleness.get(far, 0)) for far in range(farthest + 1)])
        return PushingReport(samples, {str(far): int(count) for far, count in enumerate(counts) if count})

    def close(self) -> None:
        """No more steps will be taken."""
        if self._loader is not None:
            self._loader.close()

    def _step(self, ticket: Ticket, totals: Totals, stretch: Stretch, began_s: float) -> None:
        run, optimizer = self._run, self._optimizer
        step = ticket.number // run.workers.size
        self.step_under_way = step + 1
        step_s = time.perf_counter()
        factor = lr_factor(run.config.schedule, step, self._total_steps)
        for group, initial_lr in zip(optimizer.param_groups, self._initial_lrs, strict=True):
            group["lr"] = initial_lr * factor
        torch.manual_seed(derived_seed("ticket", run.config.seed, ticket.number))
        loss = self._backward(ticket)
        vitals = self._vitals.look(step) if run.workers.is_first else {}
        optimizer.step()
        optimizer.zero_grad()
        pushes = optimizer.stats().pushes
        assert pushes is not None
        self._fate.count(ticket.samples, pushes)
        stretch.samples += ticket.samples
        stretch.loss_sum += loss * ticket.samples
        stretch.last_loss = loss
        self._losses_lost = 0 if isfinite(loss) else self._losses_lost + 1
        if self._losses_lost == _MOST_LOSSES_LOST:
            raise Diverged(
                f"the last {_MOST_LOSSES_LOST} losses of this worker were not finite; lower optim.lr (now "
                f"{optimizer.param_groups[0]['lr']:g}) or lengthen schedule.warmup_steps"
            )
        now_s = time.perf_counter()
        # How far the run is cannot be said to the sample before all pause: as if the ticket were its step's last.
        here = replace(
            totals,
            steps=step + 1,
            samples=self._sampler.seen(step + 1),
            loss=loss,
            step_seconds=totals.step_seconds + now_s - began_s,
        )
        self._log(here, now_s - step_s, vitals)

    def _backward(self, ticket: Ticket) -> float:
        """This worker's own mean gradient over the ticket's samples; returns the mean loss."""
        run = self._run
        total = 0.0
        for number, part in enumerate(ticket.parts):
            batch = to_device(part.batch, run.device)
            with torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.precision == "bf16"):
                loss = run.task.loss(self._model, batch) * (part.samples / ticket.samples)
            if number < len(ticket.parts) - 1:
                with self._optimizer.no_sync():
                    loss.backward()
            else:
                loss.backward()
            total += float(loss.detach())
        return total

    def _pause(
        self, totals: Totals, stretch: Stretch, end: int, began_s: float, interrupted: bool
    ) -> Literal["interrupted", "time"] | None:
        """Everybody has come here: agree on how far the run is."""
        run, tickets = self._run, self._tickets
        assert tickets is not None
        last_loss = stretch.last_loss / run.workers.size
        mine = [stretch.loss_sum, last_loss, stretch.samples, tickets.stopped, interrupted]
        loss_sum, loss, samples, stopped, interruptions = run.workers.sum([float(number) for number in mine])
        steps = end - totals.steps
        totals.steps = end
        totals.samples += int(samples)
        totals.step_seconds += time.perf_counter() - began_s
        totals.data_wait_seconds += stretch.data_wait_s
        totals.loss = loss
        if samples:
            totals.recent_loss += loss_sum / samples * steps
            totals.recent_steps += steps
        if not (stopped and end == tickets.end_steps):
            return None
        return "interrupted" if interruptions else "time"

    def _log(self, here: Totals, step_s: float, vitals: Mapping[str, float]) -> None:
        stats = self._optimizer.stats()
        assert stats.pushes is not None
        numbers: dict[str, float] = {
            "lr": self._optimizer.param_groups[0]["lr"],
            "grad_norm": float(self._optimizer.grad_norm),
            "step_s": step_s,
            "comm_exposed_s": stats.comm_exposed_s,
            "bytes_up": stats.bytes_up,
            "bytes_down": stats.bytes_down,
            "state_bytes": stats.state_bytes,
            "staleness": stats.staleness,
            "accepted_share": stats.pushes.accepted_share,
            **vitals,
        }
        self._recorder.step(here, numbers)
