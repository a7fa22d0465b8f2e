"""What a run leaves behind and shows: metrics, events, summary and display, on the first worker only."""

from collections.abc import Mapping

from adamesh.train.events import Event, append_event, read_events
from adamesh.train.metrics import MetricsFile
from adamesh.train.progress import Display
from adamesh.train.run import Run, Totals
from adamesh.train.summary import Summary
from adamesh.train.tensorboard import TensorBoard

__all__ = ["Recorder"]


class Recorder:
    """Takes down what happens; every worker calls it alike, the first one writes.

    Args:
        run: whose folder is written to.
        display: what is shown.
    """

    def __init__(self, run: Run, display: Display) -> None:
        self._run = run
        self._display = display
        self._metrics: MetricsFile | None = None
        self._tensorboard: TensorBoard | None = None
        self._steps = 0
        self._bytes_up = 0.0
        self._bytes_down = 0.0

    def begin(self, totals: Totals, param_count: int) -> None:
        """Training starts, or goes on, after ``totals.steps`` steps."""
        run = self._run
        self._open(totals.steps)
        total_steps, sampler = run.total_steps(), run.sampler()
        epochs = total_steps / sampler.steps_per_epoch
        header = [
            ("task", f"{run.task.name}: {run.task.summary}"),
            ("data", run.splits.source),
            ("workers", f"{run.workers.size} on {run.device.type}"),
            ("plan", run.config.plan.described(run.workers.size)),
            ("model", f"{param_count:,} parameters"),
            ("rule", run.config.optim.described()),
            ("steps", f"{total_steps:,} of {sampler.batch_size:,} samples ({epochs:.3g} epochs)"),
            ("folder", str(run.folder)),
        ]
        self._display.begin(header, totals.steps, total_steps)

    def step(self, totals: Totals, numbers: Mapping[str, float]) -> None:
        """A step is done; ``numbers`` go to the metrics as they are."""
        self._steps += 1
        self._bytes_up += numbers["bytes_up"]
        self._bytes_down += numbers["bytes_down"]
        loss = float("nan") if totals.loss is None else totals.loss
        last = totals.steps == self._run.total_steps()
        if self._open(totals.steps - 1) and (last or totals.steps % self._run.config.log_every == 0):
            self._write({"step": totals.steps, "loss": loss, **numbers, "samples": totals.samples})
        shown = {"loss": loss, "lr": numbers["lr"], "samples/s": totals.samples / totals.step_seconds}
        self._display.step(totals.steps, shown)

    def evaluation(self, totals: Totals, train: Mapping[str, float]) -> None:
        """An evaluation is done; ``train`` has the same on the training data, as far as it is known."""
        epochs = totals.samples / len(self._run.splits.train)
        if self._open(totals.steps):
            metrics = {f"eval_{name}": value for name, value in totals.evaluation.items()}
            self._write({"step": totals.steps, "epoch": epochs, "samples": totals.samples, **train, **metrics})
        tested = "  ".join(f"{name} {value:.4f}" for name, value in totals.evaluation.items())
        trained = "  ".join(f"{name.removeprefix('train_')} {value:.4f}" for name, value in train.items())
        training = f"training {trained}  " if trained else ""
        self._display.say(f"step {totals.steps}, epoch {epochs:.3g}: {training}test {tested}")

    def event(self, step: int, kind: str, message: str) -> None:
        """Something else happened."""
        if self._run.workers.is_first:
            append_event(self._run.folder / "events.jsonl", Event(step, kind, message))
        self._display.say(f"{kind}: {message}")

    def events(self) -> list[Event]:
        """Everything that happened to the run; empty on all workers but the first."""
        return read_events(self._run.folder / "events.jsonl") if self._run.workers.is_first else []

    def mean_bytes(self) -> tuple[float, float]:
        """What this worker sent up, and got down, per step since it started."""
        steps = max(1, self._steps)
        return self._bytes_up / steps, self._bytes_down / steps

    def end(self) -> None:
        """Training has ended, or failed: close what is open."""
        self._display.end()
        if self._metrics is not None:
            self._metrics.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def go_back(self, steps: int) -> None:
        """The run goes on from an earlier step: what was written of later ones is no longer so."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = MetricsFile(self._run.folder / "metrics.jsonl", steps)

    def _open(self, steps: int) -> bool:
        """Whether this worker writes; it may have become the first one after so many steps."""
        if self._metrics is None and self._run.workers.is_first:
            self._metrics = MetricsFile(self._run.folder / "metrics.jsonl", steps)
            if self._run.config.tensorboard:
                self._tensorboard = TensorBoard(self._run.folder / "tensorboard", steps)
        return self._metrics is not None

    def _write(self, record: Mapping[str, float]) -> None:
        assert self._metrics is not None
        self._metrics.write(record)
        if self._tensorboard is not None:
            self._tensorboard.write(record)

    def conclude(self, summary: Summary) -> None:
        """Leave the summary; a start that found nothing left to do keeps that of the start before."""
        path = self._run.folder / "summary.json"
        if self._run.workers.is_first and (self._steps or not path.exists()):
            summary.write(path)
        self._display.summary(summary.rows())
