"""Runs the trials of a comparison: in turn, or side by side; those that are finished already are not repeated."""

import time
from collections.abc import Sequence

from adamesh.train.progress import Display
from adamesh.tune.arms import Arm, Trial
from adamesh.tune.results import ArmResult, TrialResult, read_trial
from adamesh.tune.running import LOOK_EVERY_S, Running, Start, begun, end, interruptible, start_trial, steps_of

__all__ = ["compare"]


def compare(
    arms: Sequence[Arm], trials: Sequence[Trial], jobs: int, display: Display, start: Start | None = None
) -> list[ArmResult]:
    """Run all trials that are not finished, and say what all have found.

    A trial that fails leaves the others alone. Ctrl-C, or SIGTERM, asks those that run to save and end: the same
    call goes on with them.

    Args:
        arms: what is compared.
        trials: of these arms.
        jobs: trials at once.
        display: told of each trial that ends; its steps are trials.
        start: how a trial is begun; not given: `start_trial`.

    Raises:
        ConfigurationError: a trial's folder holds something else, or cannot be written.
        KeyboardInterrupt: it was interrupted.
    """
    results = {trial: read_trial(trial) for trial in trials}
    waiting = [trial for trial in trials if not results[trial].finished]
    running: list[Running] = []
    done = len(trials) - len(waiting)
    header = [
        ("arms", f"{len(arms)}, {len(trials)} trials, {jobs} at once"),
        *((f"arm {number}", arm.name) for number, arm in enumerate(arms, start=1)),
        *([("found", f"{done} finished trials, not repeated")] if done else []),
    ]
    display.begin(header, done, len(trials))
    with interruptible():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(begun(waiting.pop(0), jobs, start or start_trial))
                time.sleep(LOOK_EVERY_S)
                for ended in [one for one in running if one.process.poll() is not None]:
                    running.remove(ended)
                    results[ended.trial] = _result(ended)
                    done += 1
                    display.say(_line(ended.trial, results[ended.trial]))
                if steps := steps_of(running):
                    display.step(done, steps)
        except BaseException:
            end(running)
            raise
        finally:
            display.end()
    return [ArmResult(arm, [results[trial] for trial in trials if trial.arm is arm]) for arm in arms]


def _result(ended: Running) -> TrialResult:
    result = read_trial(ended.trial)
    if result.finished or result.failure is not None:
        return result
    log = ended.trial.folder / "output.log"
    return TrialResult(result.seed, f"ended with exit code {ended.process.returncode}; see {log}", {})


def _line(trial: Trial, result: TrialResult) -> str:
    if not result.finished:
        return f"{trial.name}: failed: {result.failure}"
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
    return f"{trial.name}: {metrics}  ({result.seconds:.1f} s)"
