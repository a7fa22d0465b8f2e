"""Optuna's part of a sweep: it proposes parameters, says which trials fall behind, and keeps a journal of all of it.

The journal is lines of JSON in the sweep's folder (no pickle, no server). A sweep that was killed finds in it what was
done, and which trials were running.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from adamesh.data.seeds import derived_seed
from adamesh.errors import ConfigurationError
from adamesh.tune.sweep.space import Choice, Dimension, Numbers, Range

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise ConfigurationError("adamesh sweep needs Optuna: pip install 'adamesh[sweep]'") from error

__all__ = ["PrunerName", "SamplerName", "StudyBook", "failure_of"]

PrunerName = Literal["median", "hyperband", "none"]
SamplerName = Literal["tpe", "random"]

JOURNAL = "optuna.journal"
"""In the folder of a sweep."""
_ASKED, _FAILURE, _FOLDER = "asked", "failure", "folder"
_BEFORE_PRUNING = 4
"""Trials that go to their end before any is judged by others."""


class StudyBook:
    """The study in a sweep's folder, begun or gone on with; one process at a time.

    Args:
        folder: of the sweep; it exists.
        dimensions: what is searched.
        asked: all that makes two sweeps the same; a folder of another one is refused.
        highest: the objective is to be high.
        seed: of the proposals.
        sampler: who proposes.
        pruner: who says which trials to end.

    Raises:
        ConfigurationError: the folder holds another sweep.
    """

    def __init__(
        self,
        folder: Path,
        dimensions: Sequence[Dimension],
        asked: Mapping[str, Any],
        *,
        highest: bool,
        seed: int,
        sampler: SamplerName,
        pruner: PrunerName,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal = folder / JOURNAL
        _mend(journal)
        backend = optuna.storages.journal.JournalFileBackend(str(journal))
        self.highest = highest
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="sweep",
            direction="maximize" if highest else "minimize",
            load_if_exists=True,
        )
        known = self._study.user_attrs.get(_ASKED)
        if known is None:
            self._study.set_user_attr(_ASKED, dict(asked))
        elif known != json.loads(json.dumps(dict(asked))):
            raise ConfigurationError(f"out = {folder}: holds a sweep of other settings; choose another --out")
        # One that begins again must not propose what it proposed before.
        number = derived_seed("sweep", seed, len(self._study.trials)) % 2**32
        self._study.sampler = _sampler(sampler, number)
        self._study.pruner = _pruner(pruner)
        self._distributions = {
            name: distribution
            for dimension in dimensions
            for name, distribution in zip(dimension.names(), _distributions(dimension), strict=True)
        }
        self._running: dict[int, Any] = {}
        self._reported: dict[int, int] = {}
        self.repeated = self._repeat_interrupted()
        """Trials that were running when the sweep before ended."""

    @property
    def study(self) -> "optuna.Study":
        """For its plots."""
        return self._study

    def trials(self) -> list["FrozenTrial"]:
        """All that have ended, by number, but those that were cut short: they are repeated under another number."""
        return [
            trial
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.is_finished() and (trial.state is not TrialState.FAIL or failure_of(trial))
        ]

    def propose(self) -> tuple[int, Numbers, int]:
        """Begin a trial: its number, its parameters, and the number that its folder has."""
        trial = self._study.ask(self._distributions)
        self._running[trial.number] = trial
        return trial.number, trial.params, int(trial.user_attrs.get(_FOLDER, trial.number))

    def falls_behind(self, number: int, values: Sequence[float]) -> bool:
        """Whether a running trial is to be ended, of whose evaluations these are all so far, one by one."""
        trial, known = self._running[number], self._reported.get(number, 0)
        for count, value in enumerate(values[known:], start=known + 1):
            trial.report(value, count)
            self._reported[number] = count
            if trial.should_prune():
                return True
        return False

    def completed(self, number: int, value: float) -> None:
        """A trial has come to its end."""
        self._study.tell(self._running.pop(number), value)

    def pruned(self, number: int) -> None:
        """A trial was ended because it fell behind."""
        self._study.tell(self._running.pop(number), state=TrialState.PRUNED)

    def failed(self, number: int, why: str, *, diverged: bool) -> None:
        """A trial failed. One that diverged says something of its parameters: it counts as bad, not as missing."""
        trial = self._running.pop(number)
        trial.set_user_attr(_FAILURE, why)
        self._study.tell(trial, state=TrialState.PRUNED if diverged else TrialState.FAIL)

    def importances(self) -> dict[str, float]:
        """How much of the differences between trials each parameter explains; empty where that cannot be told."""
        complete = [trial for trial in self.trials() if trial.state is TrialState.COMPLETE]
        if len(complete) < 4 or len({trial.value for trial in complete}) == 1:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return {name: float(share) for name, share in optuna.importance.get_param_importances(self._study).items()}

    def _repeat_interrupted(self) -> int:
        interrupted = self._study.get_trials(states=(TrialState.RUNNING,))
        for trial in interrupted:
            self._study.tell(trial.number, state=TrialState.FAIL)
            # In the same folder: it goes on from its own checkpoint.
            self._study.enqueue_trial(trial.params, {_FOLDER: trial.user_attrs.get(_FOLDER, trial.number)})
        return len(interrupted)


def failure_of(trial: "FrozenTrial") -> str | None:
    """Why a trial failed, if it did."""
    why = trial.user_attrs.get(_FAILURE)
    return None if why is None else str(why)


def _sampler(name: SamplerName, seed: int) -> Any:
    # With few trials, the first ten at random are a good part of them.
    return optuna.samplers.TPESampler(seed=seed) if name == "tpe" else optuna.samplers.RandomSampler(seed=seed)


def _pruner(name: PrunerName) -> Any:
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_BEFORE_PRUNING, n_warmup_steps=1)
    return optuna.pruners.HyperbandPruner() if name == "hyperband" else optuna.pruners.NopPruner()


def _distributions(dimension: Dimension) -> list["BaseDistribution"]:
    if isinstance(dimension.parts, Choice):
        return [CategoricalDistribution(dimension.parts.values)]
    return [_distribution(part) for part in dimension.parts]


def _distribution(part: Range) -> "BaseDistribution":
    if part.whole:
        return IntDistribution(round(part.low), round(part.high), log=part.scale == "log")
    if part.scale == "near1":
        return FloatDistribution(1 - part.high, 1 - part.low, log=True)
    return FloatDistribution(part.low, part.high, log=part.scale == "log")


def _mend(journal: Path) -> None:
    """Take away what a kill in the middle of writing leaves: half a line, and a lock."""
    with suppress(FileNotFoundError):
        journal.with_name(journal.name + ".lock").unlink()
    if journal.exists():
        whole, _, half = journal.read_bytes().rpartition(b"\n")
        if half:
            journal.write_bytes(whole + b"\n" if whole else b"")
