"""The training loop: step, agree, log, evaluate, save; until the end, a plateau, or an interruption."""

import time
from collections.abc import Sequence
from math import isfinite
from typing import Literal

import torch

import adamesh
from adamesh.data.ledger import Ledger, Tally
from adamesh.data.seeds import derived_seed
from adamesh.errors import CheckpointError, ConfigurationError, Diverged
from adamesh.optimizer import MeshOptimizer
from adamesh.train.best import Best
from adamesh.train.checkpoints import CheckpointFolder
from adamesh.train.config import config_hash
from adamesh.train.evaluate import evaluate
from adamesh.train.guarding import Guarding
from adamesh.train.names import build_optimizer, build_plan
from adamesh.train.progress import Display
from adamesh.train.pushing import Stretches
from adamesh.train.record import Recorder
from adamesh.train.run import Run, Totals
from adamesh.train.step import Stepper
from adamesh.train.stopping import Interruption, Plateau
from adamesh.train.summary import Summary
from adamesh.train.untold import OwnStep, Untold, meets_after
from adamesh.train.weights import load_weights

__all__ = ["Trainer"]

Reason = Literal["finished", "tolerance", "time", "early-stop", "interrupted"]

_MOST_EVALUATIONS = 50
_MOST_CHECKPOINTS = 10


class Trainer:
    """Trains one run on this worker; every worker has one, and calls the same methods.

    Args:
        run: what to train, where, with whom.
        display: where to report to; silent on all workers but the first.
    """

    def __init__(self, run: Run, display: Display) -> None:
        torch.manual_seed(derived_seed("model", run.config.seed))
        self._run = run
        self.model = run.task.build_model().to(run.device)
        adamesh.broadcast_module(self.model)
        plan = build_plan(run.config.plan, run.device, run.workers.size, run.config.optim.rule, run.config.plans_guard)
        self.optimizer = build_optimizer(run.config.optim, self.model, plan)
        self._sync = plan.sync
        self._untold = Untold()
        self._stepper = Stepper(run, self.model, self.optimizer)
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
        self._plateau = Plateau(run.config.tolerance, run.config.tolerance_steps)
        self._best = Best(run.config.best_metric, run.config.best_is, run.config.patience)
        self._step_under_way = 0
        self.totals = Totals()
        self._ledger = Ledger()

    def train(self, resume: bool) -> Summary:
        """Train to the end of the run, or to where it is stopped. Collective.

        Args:
            resume: go on from the newest checkpoint that can be read, at any number of workers.

        Raises:
            ConfigurationError: the folder holds another run, or the checkpoint belongs to other settings.
            CheckpointError: there are checkpoints, and none can be loaded.
            Diverged: the loss or the gradient is not finite any more.
        """
        if resume:
            self._restore()
        elif self._checkpoints.candidates():
            raise ConfigurationError(
                f"{self._run.folder} holds another run's checkpoints; resume it, or choose another folder"
            )
        else:
            self._load_weights()
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self._recorder.begin(self.totals, parameters)
        try:
            with Interruption() as interruption:
                reason = self._loop(interruption)
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
        if reason != "interrupted" and "frozen_after" in self.optimizer.param_groups[0] and not self._frozen:
            late = "second moments have not settled, nothing was coded: lower optim.betas[1] or set optim.freeze_at"
            self._recorder.event(self.totals.steps, "not-frozen", late)
        if reason == "interrupted":
            saved = f"step {self.totals.steps} is saved; go on with: adamesh resume {self._run.folder}"
            self._recorder.event(self.totals.steps, "interrupted", saved)
        summary = self._summary(reason, parameters)
        self._recorder.conclude(summary)
        return summary

    def _loop(self, interruption: Interruption) -> Reason:
        total_steps = self._run.total_steps()
        evaluate_every = self._run.due_every(self._run.config.eval_every, _MOST_EVALUATIONS)
        save_every = self._run.due_every(self._run.config.checkpoint_every, _MOST_CHECKPOINTS)
        began_s = time.perf_counter() - self.totals.seconds
        reason: Reason | None = "finished" if self.totals.steps >= total_steps else None
        self.model.train()
        while reason is None:
            if self._stretches is not None:
                pauses = (evaluate_every, save_every, total_steps)
                reason = self._stretch(self._stretches, interruption, total_steps, pauses)
            else:
                made = self.totals.steps + len(self._untold.steps) + 1
                due = made >= total_steps or made % evaluate_every == 0 or made % save_every == 0
                reason = self._step(interruption, total_steps, meets=due or meets_after(self._sync, made - 1))
            if self._untold.steps:
                continue
            if reason in ("finished", "tolerance", "time"):
                self.optimizer.drain()
            if reason in ("finished", "tolerance", "time") or self.totals.steps % evaluate_every == 0:
                improved = self._evaluate()
                self.totals.seconds = time.perf_counter() - began_s
                if improved and self._run.config.keep_best:
                    self._save(self._best_checkpoint)
                if reason is None and self._best.exhausted:
                    reason = "early-stop"
            self.totals.seconds = time.perf_counter() - began_s
            if reason is not None or self.totals.steps % save_every == 0:
                self._save(self._checkpoints, last=reason is not None)
        self._best_checkpoint.finish()
        return reason

    def _step(self, interruption: Interruption, total_steps: int, *, meets: bool) -> Reason | None:
        """One step, and whether it was the last: the same answer on every worker.

        Args:
            interruption: whether somebody wants the run to end.
            total_steps: of the run.
            meets: workers talk after it, also of the steps since they last did.
        """
        untold = self._untold
        number = self.totals.steps + len(untold.steps)
        self._step_under_way = number + 1
        began_s = time.perf_counter()
        live = not self._frozen
        local = self._stepper.take(number) if self._guarding is None else self._guarding.take(number)
        grad_norm = float(self.optimizer.grad_norm)
        settled = not local.skipped and self._plateau.settled(grad_norm)
        step_s = time.perf_counter() - began_s
        # Islands that step alone have norms of their own.
        lost = not isfinite(grad_norm) and not local.skipped
        flags = (interruption.requested, settled, self._is_late(step_s), lost)
        loss_share, used = (0.0, Tally()) if local.skipped else (local.loss_share, local.tally)
        shares = [loss_share, *flags, *used.limbs()]
        froze = live and self._frozen
        untold.steps.append(OwnStep(local, grad_norm, self.optimizer.stats(), step_s, shares, froze))
        if not meets:
            return None
        told = untold.tell(self._run.workers)
        waited_s = time.perf_counter() - began_s - step_s
        reasons = [self._account(step, sums, waited_s if step is told[-1][0] else 0.0) for step, sums in told]
        if self.totals.steps >= total_steps:
            return "finished"
        return next((reason for reason in ("tolerance", "time", "interrupted") if reason in reasons), None)

    def _account(self, step: OwnStep, sums: list[float], waited_s: float) -> Reason | None:
        """Add a step to the totals, now that all workers' shares are known; returns why it may be the last."""
        loss, interruptions, plateaus, lates, num_lost, *limbs = sums
        self._ledger = self._ledger.after(Tally.of_limbs(limbs))
        totals, seconds = self.totals, step.step_s + waited_s
        totals.steps += 1
        totals.samples += step.local.samples
        totals.step_seconds += seconds
        totals.data_wait_seconds += step.local.data_wait_s
        if not step.local.skipped:
            totals.loss = loss
            totals.recent_loss += loss
            totals.recent_steps += 1
        self._log(step, seconds)
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
        return limit_s is not None and self.totals.step_seconds + self._untold.seconds + step_s >= limit_s

    def _stretch(
        self, stretches: Stretches, interruption: Interruption, total_steps: int, pauses: Sequence[int]
    ) -> Reason | None:
        """All steps up to the next pause, each worker at its own speed; the same answer on every worker."""
        until = min(*(self.totals.steps - self.totals.steps % every + every for every in pauses), total_steps)
        stopped = stretches.advance(self.totals, until, lambda: interruption.requested, self._is_late)
        if self.totals.steps >= total_steps:
            return "finished"
        return stopped

    def _log(self, step: OwnStep, seconds: float) -> None:
        stats = step.stats
        self._recorder.step(
            self.totals,
            {
                "lr": step.local.lr,
                "grad_norm": step.grad_norm,
                "step_s": seconds,
                "data_wait_s": step.local.data_wait_s,
                "comm_exposed_s": stats.comm_exposed_s,
                "bytes_up": stats.bytes_up,
                "bytes_down": stats.bytes_down,
                "bytes_per_step": stats.bytes_per_step,
                **({"skipped": 1} if step.local.skipped else {}),
                **({} if stats.divergence is None else {"divergence": stats.divergence}),
                **({} if stats.frozen_after is None else {"frozen_after": stats.frozen_after}),
            },
        )

    @property
    def _frozen(self) -> bool:
        """Whether the rule has frozen its second moments."""
        return self.optimizer.param_groups[0].get("frozen_after") is not None

    def _evaluate(self) -> bool:
        """Test, and say how training went since the last time; returns whether it is the best so far."""
        # Batch-norm statistics are each worker's own until somebody else needs them.
        adamesh.average_buffers(self.model)
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
        return self._best.improves(totals.evaluation, totals.steps)

    def _save(self, folder: CheckpointFolder, *, last: bool = False) -> None:
        """Save; one that cannot be written is told as an event, and the run ends only if it was the last."""
        adamesh.average_buffers(self.model)
        extra = {
            "totals": self.totals.saved(),
            "ledger": self._ledger.saved(),
            "recent_grad_norms": self._plateau.recent,
            "best": self._best.state,
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
        self.totals = Totals.restored(loaded.extra["totals"])
        self._ledger = Ledger.restored(loaded.extra["ledger"])
        config = self._run.config
        self._plateau = Plateau(config.tolerance, config.tolerance_steps, loaded.extra["recent_grad_norms"])
        self._best = Best(config.best_metric, config.best_is, config.patience, loaded.extra["best"])
        self._recorder.event(
            self.totals.steps, "resumed", f"from {loaded.saved.name} with {self._run.workers.size} workers"
        )

    def _load_weights(self) -> None:
        """Begin with the weights that the configuration names, if it does. Collective."""
        if self._run.config.weights is not None:
            line = load_weights(self.model, self._run.config.weights)
            adamesh.broadcast_module(self.model)
            self._recorder.event(0, "weights", line)

    def _order(self) -> dict[str, int]:
        """What the order of samples depends on."""
        sampler = self._run.sampler()
        return {"samples": sampler.num_samples, "batch_size": sampler.batch_size, "seed": sampler.seed}

    def _summary(self, reason: Reason, param_count: int) -> Summary:
        run, totals, workers = self._run, self.totals, self._run.workers
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
            ledger=None if self._stretches is not None else self._ledger.saved(),
            best={"metric": self._best.metric, "value": self._best.value, "step": self._best.step},
            stopped=reason,
            asynchronous=None if self._stretches is None else self._stretches.report(),
        )
