"""What becomes of a step that the guard refuses: computed elsewhere, passed over, rolled back, or the end of the run.

Every worker hears the same refusal, so every worker does the same, without another word.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from adamesh.engine.refusal import Refusal
from adamesh.errors import Diverged
from adamesh.guard import Guard
from adamesh.optimizer import MeshOptimizer
from adamesh.plan import Plan
from adamesh.train.record import Recorder
from adamesh.train.run import Run
from adamesh.train.snapshot import Snapshot
from adamesh.train.step import LocalStep, Stepper

__all__ = ["Guarding", "elsewhere"]

_MOST_NAMED = 64
"""Samples named in an event."""


class Guarding:
    """Takes the steps of a run under its plan's guard.

    Where islands step alone, or gradients are applied late, a refused step is passed over, and so many in a row end the
    run: there is nothing that could be made again, and no state that all workers share.

    Args:
        run: whose.
        model: with the buffers that a refused step must not leave its mark on.
        optimizer: of the plan.
        plan: with a guard.
        stepper: takes the steps.
        recorder: takes down what happens.
    """

    def __init__(
        self, run: Run, model: nn.Module, optimizer: MeshOptimizer, plan: Plan, stepper: Stepper, recorder: Recorder
    ) -> None:
        assert plan.guard is not None
        self._guard: Guard = plan.guard
        self._run = run
        self._model = model
        self._optimizer = optimizer
        self._stepper = stepper
        self._recorder = recorder
        self._together = plan.sync.at(0).gradients and not plan.sync.at(0).delay
        self._snapshot: Snapshot | None = None
        self._good = 0
        """Steps made since the snapshot."""
        self._in_row = 0
        """Steps passed over, the last ones."""
        self._rollbacks = 0
        """To the same snapshot."""

    def take(self, step: int) -> LocalStep:
        """Step ``step``, from 0, in one way or another. Collective.

        Raises:
            Diverged: steps are refused however often the run is rolled back, or a worker's parameters keep changing.
        """
        if self._together and (self._snapshot is None or self._good >= self._guard.snapshot_every):
            self._snapshot = Snapshot(step, self._model, self._optimizer)
            self._good = self._rollbacks = 0
        before = [buffer.clone() for buffer in self._model.buffers()]
        local = self._take_alike(step, before)
        refusal = self._refusal
        if refusal is not None:
            self._put_back(before)
            if not self._together:
                return self._pass_over(step, local, refusal, "its gradients are dropped")
            local = self._take_elsewhere(step, local, refusal, before)
        if not local.skipped:
            self._good += 1
            self._in_row = 0
        return local

    @property
    def _refusal(self) -> Refusal | None:
        return self._optimizer.stats().refusal

    def _take_alike(self, step: int, before: Sequence[Tensor]) -> LocalStep:
        """The step, made again where it has only shown that replicas differed."""
        local, times = self._stepper.take(step), 0
        while (refusal := self._refusal) is not None and refusal.reason == "replicas" and self._together:
            times += 1
            self._recorder.event(step + 1, "replica-repaired", str(refusal))
            if times > self._guard.skips:
                raise Diverged(
                    f"in step {step + 1} {refusal}, {times} times in a row: that memory cannot be trusted. Leave the "
                    "worker out, or look for code that writes to parameters on some workers only"
                )
            self._put_back(before)
            local = self._stepper.take(step)
        return local

    def _take_elsewhere(self, step: int, refused: LocalStep, refusal: Refusal, before: Sequence[Tensor]) -> LocalStep:
        """Have the suspects' samples computed by others: is it their hardware, or the samples?"""
        workers = self._run.workers
        shares = elsewhere(refusal.suspects, workers.size)
        local = self._stepper.take(step, shares[workers.rank])
        again = self._refusal
        who = ", ".join(map(str, refusal.suspects)) or "nobody in particular"
        if again is None:
            cause = "computed again" if workers.size == 1 else "computed by another worker"
            what = f"{refusal}; {cause} it is fine, so hardware is to blame (worker {who}); the step goes on with that"
            self._recorder.event(step + 1, "bad-hardware", what)
            return local
        self._put_back(before)
        cause = f"as bad when computed again ({again})" if workers.size == 1 else f"as bad elsewhere ({again})"
        return self._pass_over(step, refused, refusal, f"{cause}: {self._samples(step, refusal.suspects)} passed over")

    def _pass_over(self, step: int, local: LocalStep, refusal: Refusal, what: str) -> LocalStep:
        self._in_row += 1
        self._recorder.event(step + 1, "skip", f"step {step + 1} is not made: {refusal}; {what}")
        if self._in_row >= self._guard.skips:
            self._roll_back(step, refusal)
        return replace(local, skipped=True)

    def _roll_back(self, step: int, refusal: Refusal) -> None:
        """To the snapshot, and on with the samples that come next."""
        if self._snapshot is None or self._rollbacks >= self._guard.rollbacks:
            rolled = f" after {self._rollbacks} rollbacks" if self._rollbacks else ""
            raise Diverged(
                f"{self._in_row} steps in a row cannot be made{rolled}; the last, step {step + 1}: {refusal}. Lower "
                "optim.lr, lengthen schedule.warmup_steps or look at the samples that events.jsonl names; if steps "
                "were good that the guard refused, raise guard.threshold or guard.floor"
            )
        start_s = time.perf_counter()
        self._snapshot.restore()
        took_s = time.perf_counter() - start_s
        self._rollbacks += 1
        self._recorder.event(
            step + 1,
            "rollback",
            f"after {self._in_row} steps that could not be made, back to the state of step {self._snapshot.step}, on "
            f"with the samples of step {step + 2} ({took_s:.3f} s)",
        )
        self._in_row = self._good = 0

    def _put_back(self, buffers: Sequence[Tensor]) -> None:
        """Running statistics have seen what was refused."""
        with torch.no_grad():
            for buffer, value in zip(self._model.buffers(), buffers, strict=True):
                buffer.copy_(value)

    def _samples(self, step: int, suspects: Sequence[int]) -> str:
        """Which samples the suspects had; all, where nobody was suspected."""
        indices = self._run.sampler().global_batch(step).tolist()
        if suspects:
            cuts = [self._stepper.span(step, rank) for rank in suspects]
            indices = [index for start, stop in cuts for index in indices[start:stop]]
        more = f" and {len(indices) - _MOST_NAMED} more" if len(indices) > _MOST_NAMED else ""
        return (
            f"samples {', '.join(map(str, indices[:_MOST_NAMED]))}{more}, or the model where it is, are bad; they are"
        )


def elsewhere(suspects: Sequence[int], size: int) -> list[list[int]]:
    """Whose shares of a batch each worker computes so that no suspect computes its own.

    The next worker on the ring that is not suspected takes a suspect's share beside its own, and the suspect takes
    none. Where everybody is suspected each takes its neighbour's; who is alone, its own again.
    """
    shares = [[rank] for rank in range(size)]
    if len(suspects) >= size:
        return [[(rank - 1) % size] for rank in range(size)]
    for suspect in suspects:
        shares[suspect].remove(suspect)
        heir = next(rank for rank in ((suspect + i) % size for i in range(1, size)) if rank not in suspects)
        shares[heir].append(suspect)
    return shares
