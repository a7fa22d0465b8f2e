"""The training loop: step, agree, log, evaluate, save; until the end, a plateau, or an interruption."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch

import adamesh
from adamesh.data.ledger import Tally
from adamesh.data.seeds import derived_seed
from adamesh.errors import (
    CheckpointError,
    CommunicationError,
    ConfigurationError,
    Diverged,
    StateLost,
)
from adamesh.optimizer import MeshOptimizer
from adamesh.train.checkpoints import CheckpointFolder
from adamesh.train.config import config_hash
from adamesh.train.continuity import Continuity
from adamesh.train.elastic import Elastic
from adamesh.train.evaluate import evaluate
from adamesh.train.guarding import Guarding
from adamesh.train.lines import step_numbers
from adamesh.train.names import build_optimizer, build_plan
from adamesh.train.progress import Display
from adamesh.train.pushing import Stretches
from adamesh.train.record import Recorder
from adamesh.train.run import Run, Totals
from adamesh.train.standing import Owed, Reason, Standing
from adamesh.train.step import Stepper
from adamesh.train.stopping import Interruption
from adamesh.train.summary import Summary
from adamesh.train.untold import OwnStep, meets_after
from adamesh.train.weights import load_weights

__all__ = ["Trainer"]

_MOST_EVALUATIONS = 50
_MOST_CHECKPOINTS = 10


@dataclass(frozen=True)
class Pace:
    """When what is due."""

    total_steps: int
    evaluate_every: int
    save_every: int
    began_s: float
    """When the run began, on this worker's clock, less the time that it did not run."""


class Trainer:
    """Trains one run on this worker; every worker has one, and calls the same methods.

    Args:
        run: what to train, where, with whom.
        display: where to report to; silent on all workers but the first.
        elastic: this worker's part, where workers come and go.
    """

    def __init__(self, run: Run, display: Display, elastic: Elastic | None = None) -> None:
        torch.manual_seed(derived_seed("model", run.config.seed))
        self._run = run
        self._elastic = elastic
        self.model = run.task.build_model().to(run.device)
        if elastic is None:
            adamesh.broadcast_module(self.model)
        company = None if elastic is None else elastic.company
        guard = run.config.plans_guard
        plan = build_plan(run.config.plan, run.device, run.workers.size, run.config.optim.rule, guard, company)
        self.optimizer = build_optimizer(run.config.optim, self.model, plan)
        self._sync = plan.sync
        standing = self.standing = Standing(run.config)
        tells = elastic is not None and plan.sync.at(0).gradients
        self._stepper = Stepper(run, self.model, self.optimizer, tells=tells)
        self._recorder = Recorder(run, display)
        self._guarding = None
        """What becomes of steps that the guard refuses, if there is one."""
        if plan.guard is not None:
            assert isinstance(self.optimizer, MeshOptimizer)
            self._guarding = Guarding(run, self.model, self.optimizer, plan, self._stepper, self._recorder)
        self._stretches: Stretches | None = None
        """Where workers go at their own speed."""
        if plan.sync.at(0).pushes is not None:
            assert isinstance(self.optimizer, MeshOptimizer)
            lrs = [group["lr"] for group in self.optimizer.param_groups]
            self._stretches = Stretches(run, self.model, self.optimizer, lrs, self._recorder)
        folder = run.folder / "checkpoints"
        behind = run.config.checkpoint_async
        self._checkpoints = CheckpointFolder(folder, run.workers, run.config.keep_checkpoints, behind=behind)
        self._best_checkpoint = CheckpointFolder(run.folder / "best", run.workers, keep=1, behind=behind)
        if elastic is not None:
            self._checkpoints.attend(self.model, self.optimizer)
            self._best_checkpoint.attend(self.model, self.optimizer)
        self._step_under_way = 0
        self._continuity: Continuity | None = None
        """What is done when workers are lost, come or go, where they may."""
        if elastic is not None:
            assert isinstance(self.optimizer, MeshOptimizer)
            self._continuity = Continuity(
                elastic,
                standing,
                self.model,
                self.optimizer,
                self._stepper,
                self._recorder,
                run.folder,
                self._checkpoints,
                self._tell,
                self._restore,
            )

    @property
    def totals(self) -> Totals:
        """How far the run is."""
        return self.standing.totals

    def train(self, resume: bool) -> Summary:
        """Train to the end of the run, or to where it is stopped. Collective.

        Args:
            resume: go on from the newest checkpoint that can be read, at any number of workers.

        Raises:
            ConfigurationError: the folder holds another run, or the checkpoint belongs to other settings.
            CheckpointError: there are checkpoints, and none can be loaded.
            Diverged: the loss or the gradient is not finite any more.
        """
        if self._continuity is not None and self._continuity.elastic.newcomer:
            self._continuity.enter()
        elif resume:
            self._restore()
        elif self._checkpoints.candidates():
            raise ConfigurationError(
                f"{self._run.folder} holds another run's checkpoints; resume it, or choose another folder"
            )
        else:
            self._load_weights()
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self._recorder.begin(self.totals, parameters)
        if self._elastic is not None:
            self._elastic.publish(self._run.folder)
        try:
            with Interruption(None if self._elastic is None else self._elastic.leave) as interruption:
                reason = self._loop(interruption)
                self._tell_of_the_end(reason)
                summary = self._concluded(reason, parameters)
        except Exception as error:
            for folder in (self._checkpoints, self._best_checkpoint):
                folder.close()
            under_way = self._step_under_way if self._stretches is None else self._stretches.step_under_way
            error.add_note(f"in step {under_way}")
            raise
        finally:
            self._stepper.close()
            if self._stretches is not None:
                self._stretches.close()
            self._recorder.end()
        self._recorder.conclude(summary)
        if self._elastic is not None:
            self._elastic.conclude(self._run.folder)
        return summary

    def _tell_of_the_end(self, reason: Reason) -> None:
        if reason != "interrupted" and "frozen_after" in self.optimizer.param_groups[0] and not self._frozen:
            late = "second moments have not settled, nothing was coded: lower optim.betas[1] or set optim.freeze_at"
            self._recorder.event(self.totals.steps, "not-frozen", late)
        if reason == "interrupted":
            saved = f"step {self.totals.steps} is saved; go on with: adamesh resume {self._run.folder}"
            self._recorder.event(self.totals.steps, "interrupted", saved)

    def _concluded(self, reason: Reason, parameters: int) -> Summary:
        """The last that workers do together; who is lost meanwhile is not needed for it."""
        while True:
            try:
                self._best_checkpoint.finish()
                return self._summary(reason, parameters)
            except CheckpointError as error:
                if self._continuity is None:
                    raise
                # Of a worker that is gone, perhaps. What the run was for is there all the same.
                self._recorder.event(self.totals.steps, "checkpoint-failed", str(error))
            except (CommunicationError, StateLost) as error:
                if self._continuity is None:
                    raise
                self._continuity.go_on_after(error)

    def _loop(self, interruption: Interruption) -> Reason:
        total_steps = self._run.total_steps()
        evaluate_every = self._run.due_every(self._run.config.eval_every, _MOST_EVALUATIONS)
        save_every = self._run.due_every(self._run.config.checkpoint_every, _MOST_CHECKPOINTS)
        began_s = time.perf_counter() - self.totals.seconds
        reason: Reason | None = "finished" if self.totals.steps >= total_steps else None
        self.model.train()
        while reason is None:
            try:
                reason = self._turn(interruption, Pace(total_steps, evaluate_every, save_every, began_s))
            except (CommunicationError, StateLost) as error:
                if self._continuity is None:
                    raise
                self._continuity.go_on_after(error)
        return reason

    def _turn(self, interruption: Interruption, pace: "Pace") -> Reason | None:
        """A step, and what is due after it; the same answer on every worker."""
        if self.standing.owed is None:
            if self._stretches is not None:
                pauses = (pace.evaluate_every, pace.save_every, pace.total_steps)
                self.standing.owed = Owed(self._stretch(self._stretches, interruption, pace.total_steps, pauses))
            else:
                made = self.totals.steps + len(self.standing.untold.steps) + 1
                due = made >= pace.total_steps or made % pace.evaluate_every == 0 or made % pace.save_every == 0
                self._step(interruption, meets=due or meets_after(self._sync, made - 1))
        owed = self.standing.owed
        if owed is None:
            return None
        if owed.reason in ("finished", "tolerance", "time"):
            self.optimizer.drain()
            due = True
        else:
            due = self.totals.steps % pace.evaluate_every == 0
        if due and not owed.evaluated:
            self._note("evaluating")
            owed.improved = self._evaluate()
            owed.evaluated = True
        self.totals.seconds = time.perf_counter() - pace.began_s
        if owed.improved and self._run.config.keep_best:
            self._note("saving")
            self._save(self._best_checkpoint)
        reason = owed.reason
        if reason is None and owed.evaluated and self.standing.best.exhausted:
            reason = "early-stop"
        self.totals.seconds = time.perf_counter() - pace.began_s
        if reason is not None or self.totals.steps % pace.save_every == 0:
            self._note("saving")
            self._save(self._checkpoints, last=reason is not None)
        self.standing.owed = None
        return reason

    def _note(self, phase: str) -> None:
        """Tell workers that come and go what this one is at."""
        if self._elastic is not None:
            self._elastic.company.note(self.totals.steps, phase)

    def _step(self, interruption: Interruption, *, meets: bool) -> None:
        """One step; what is due after it is owed then, the same on every worker.

        Args:
            interruption: whether somebody wants the run to end.
            meets: workers talk after it, also of the steps since they last did.
        """
        untold = self.standing.untold
        number = self.totals.steps + len(untold.steps)
        self._step_under_way = number + 1
        began_s = time.perf_counter()
        live = not self._frozen
        made_before = self._steps_made
        local = self._stepper.take(number) if self._guarding is None else self._guarding.take(number)
        grad_norm = float(self.optimizer.grad_norm)
        settled = not local.skipped and self.standing.plateau.settled(grad_norm)
        step_s = time.perf_counter() - began_s
        # Islands that step alone have norms of their own.
        lost = not isfinite(grad_norm) and not local.skipped
        flags = (interruption.requested, settled, self._is_late(step_s), lost)
        loss_share, used = (0.0, Tally()) if local.skipped else (local.loss_share, local.tally)
        shares = [loss_share, *flags, *used.limbs()]
        froze = live and self._frozen
        continuity = self._continuity
        regrouped = continuity is not None and continuity.elastic.changed
        if local.skipped or not regrouped or self._steps_made > made_before:
            untold.steps.append(OwnStep(local, grad_norm, self.optimizer.stats(), step_s, shares, froze))
        if continuity is not None and regrouped:
            continuity.reconcile()
        elif meets:
            sums = untold.sums(self._run.workers)
            waited_s = time.perf_counter() - began_s - step_s
            self._tell(sums, waited_s)

    def _tell(self, sums: Sequence[Sequence[float]], waited_s: float = 0.0) -> None:
        """Account for the steps that were made since workers last talked; from then on what is due after them is owed.

        Args:
            sums: over workers, of each step's shares.
            waited_s: for the others, in the last step.
        """
        standing = self.standing
        steps, standing.untold.steps = standing.untold.steps, []
        told = list(zip(steps, sums, strict=True))
        reasons = [self._account(step, total, waited_s if step is steps[-1] else 0.0) for step, total in told]
        reason: Reason | None = "finished" if self.totals.steps >= self._run.total_steps() else None
        last: tuple[Reason, ...] = ("tolerance", "time", "interrupted")
        standing.owed = Owed(reason or next((reason for reason in last if reason in reasons), None))

    @property
    def _steps_made(self) -> int:
        """By the optimizer, where it may return with a step that has to be made again."""
        return self.optimizer.steps_made if isinstance(self.optimizer, MeshOptimizer) else 0

    def _account(self, step: OwnStep, sums: Sequence[float], waited_s: float) -> Reason | None:
        """Add a step to the totals, now that all workers' shares are known; returns why it may be the last."""
        loss, interruptions, plateaus, lates, num_lost, *limbs = sums
        if step.local.known is not None and not step.local.skipped:
            loss, *limbs = step.local.known  # of those too who have been lost since
        used = Tally.of_limbs(limbs)
        together = step.local.known is not None and not step.local.skipped
        assert not together or used.count == step.local.samples, (used, step.local.samples)
        self.standing.ledger = self.standing.ledger.after(used)
        totals, seconds = self.totals, step.step_s + waited_s
        totals.steps += 1
        totals.samples += step.local.samples
        totals.step_seconds += seconds
        totals.data_wait_seconds += step.local.data_wait_s
        if not step.local.skipped:
            totals.loss = loss
            totals.recent_loss += loss
            totals.recent_steps += 1
        self._recorder.step(totals, step_numbers(step, seconds, self._run.workers.size))
        if step.froze:
            self._recorder.event(
                totals.steps, "frozen", "second moments stand still; what travels is coded from now on"
            )
        if not isfinite(loss) or num_lost:
            norm = "not finite elsewhere" if num_lost and isfinite(step.grad_norm) else f"{step.grad_norm:g}"
            raise Diverged(
                f"the loss is {loss:g} and the gradient norm {norm}; lower optim.lr "
                f"(now {step.local.lr:g}), lengthen schedule.warmup_steps or set plan.max_grad_norm = 1.0"
            )
        if plateaus:
            return "tolerance"
        if lates:
            return "time"
        return "interrupted" if interruptions else None

    def _is_late(self, step_s: float) -> bool:
        """Whether the time is over after a step of so many seconds, by this worker's clock."""
        limit_s = self._run.config.max_seconds
        return limit_s is not None and self.totals.step_seconds + self.standing.untold.seconds + step_s >= limit_s

    def _stretch(
        self, stretches: Stretches, interruption: Interruption, total_steps: int, pauses: Sequence[int]
    ) -> Reason | None:
        """All steps up to the next pause, each worker at its own speed; the same answer on every worker."""
        until = min(*(self.totals.steps - self.totals.steps % every + every for every in pauses), total_steps)
        stopped = stretches.advance(self.totals, until, lambda: interruption.requested, self._is_late)
        if self.totals.steps >= total_steps:
            return "finished"
        return stopped

    @property
    def _frozen(self) -> bool:
        """Whether the rule has frozen its second moments."""
        return self.optimizer.param_groups[0].get("frozen_after") is not None

    def _evaluate(self) -> bool:
        """Test, and say how training went since the last time; returns whether it is the best so far."""
        # Batch-norm statistics are each worker's own until somebody else needs them.
        self._average_buffers()
        self.optimizer.flush()
        run, totals = self._run, self.totals
        train: dict[str, float] = {}
        with self.optimizer.agreed():
            totals.evaluation = evaluate(run, self.model, run.splits.test)
            if run.config.eval_train:
                seen = evaluate(run, self.model, run.splits.train)
                train = {f"train_{name}": value for name, value in seen.items()}
        if not train and totals.recent_steps:
            train = {"train_loss": totals.recent_loss / totals.recent_steps}
        totals.recent_loss, totals.recent_steps = 0.0, 0
        self._recorder.evaluation(totals, train)
        return self.standing.best.improves(totals.evaluation, totals.steps)

    def _save(self, folder: CheckpointFolder, *, last: bool = False) -> None:
        """Save; one that cannot be written is told as an event, and the run ends only if it was the last."""
        self._average_buffers()
        extra = {
            **self.standing.saved(),
            "task": self._run.task.name,
            "order": self._order(),
            "config_hash": config_hash(self._run.config),
        }
        failures: list[str] = []
        try:
            folder.save(self.totals.steps, self.model, self.optimizer, extra)
            if last:
                folder.finish()
        except CheckpointError as error:
            if last:
                raise
            failures = [str(error)]
        for line in folder.failures() + failures:
            self._recorder.event(self.totals.steps, "checkpoint-failed", line)

    def _average_buffers(self) -> None:
        adamesh.average_buffers(self.model, None if self._elastic is None else self._elastic.world)

    def _restore(self) -> None:
        loaded = self._checkpoints.load_newest(self.model, self.optimizer)
        if loaded is None:
            self._recorder.event(0, "resumed", "there is no checkpoint: training starts from the beginning")
            self._load_weights()
            return
        for line in loaded.damaged:
            self._recorder.event(loaded.saved.step, "rollback", line)
        if loaded.extra["order"] != self._order():
            raise ConfigurationError(
                f"{loaded.saved.name} was taken with {loaded.extra['order']}, the configuration says "
                f"{self._order()}: its order of samples is another; restore the settings, or start a new run"
            )
        self.standing.restore(loaded.extra)
        self._recorder.event(
            self.totals.steps, "resumed", f"from {loaded.saved.name} with {self._run.workers.size} workers"
        )

    def _load_weights(self) -> None:
        """Begin with the weights that the configuration names, if it does. Collective."""
        if self._run.config.weights is not None:
            line = load_weights(self.model, self._run.config.weights)
            adamesh.broadcast_module(self.model, None if self._elastic is None else self._elastic.world)
            self._recorder.event(0, "weights", line)

    def _order(self) -> dict[str, int]:
        """What the order of samples depends on."""
        sampler = self._run.sampler()
        return {"samples": sampler.num_samples, "batch_size": sampler.batch_size, "seed": sampler.seed}

    def _summary(self, reason: Reason, param_count: int) -> Summary:
        run, totals, workers, best = self._run, self.totals, self._run.workers, self.standing.best
        bytes_up, bytes_down = self._recorder.mean_bytes()
        mean_up, mean_down = (total / workers.size for total in workers.sum([bytes_up, bytes_down]))
        (waited_s,) = workers.sum([totals.data_wait_seconds / workers.size])
        state_bytes = [0.0] * workers.size
        state_bytes[workers.rank] = self.optimizer.stats().state_bytes
        return Summary(
            task=run.task.name,
            world_size=workers.size,
            steps=totals.steps,
            samples=totals.samples,
            final_loss=totals.loss,
            eval=totals.evaluation,
            seconds=totals.seconds,
            samples_per_s=totals.samples / totals.step_seconds if totals.step_seconds else 0.0,
            data_wait_share=waited_s / totals.step_seconds if totals.step_seconds else 0.0,
            state_bytes_per_rank=int(max(workers.sum(state_bytes))),
            bytes_up_per_step=mean_up,
            bytes_down_per_step=mean_down,
            param_count=param_count,
            frozen_after=self.optimizer.param_groups[0].get("frozen_after"),
            events=self._recorder.events(),
            config_hash=config_hash(run.config),
            ledger=None if self._stretches is not None else self.standing.ledger.saved(),
            best={"metric": best.metric, "value": best.value, "step": best.step},
            stopped=reason,
            asynchronous=None if self._stretches is None else self._stretches.report(),
        )
