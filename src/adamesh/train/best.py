"""The best evaluation so far, and how long ago it was."""

from collections.abc import Mapping
from math import isnan
from typing import Any, Literal

from adamesh.errors import ConfigurationError

__all__ = ["Best", "is_better_high"]

_HIGHER_IS_BETTER = ("accuracy", "auc", "precision", "recall")


def is_better_high(metric: str, which: Literal["highest", "lowest"] | None) -> bool:
    """Whether more of a metric is better; ``which`` of None: it is, of accuracy, auc, precision and recall."""
    return which == "highest" or (which is None and metric in _HIGHER_IS_BETTER)


class Best:
    """Follows one metric over a run's evaluations.

    Args:
        metric: its name among the evaluation's.
        which: "highest" or "lowest" is better; None: highest for accuracy, auc, precision and recall, else lowest.
        patience: evaluations without a better one after which `exhausted` is true; None: never.
        saved: what `state` was, from a checkpoint.
    """

    def __init__(
        self,
        metric: str,
        which: Literal["highest", "lowest"] | None,
        patience: int | None,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self.metric = metric
        self._highest = is_better_high(metric, which)
        self._patience = patience
        same = saved is not None and saved["metric"] == metric
        self.value: float | None = saved["value"] if saved and same else None
        self.step: int | None = saved["step"] if saved and same else None
        self._since = saved["since"] if saved and same else 0

    @property
    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"metric": self.metric, "value": self.value, "step": self.step, "since": self._since}

    @property
    def exhausted(self) -> bool:
        """The last ``patience`` evaluations brought nothing better."""
        return self._patience is not None and self._since >= self._patience

    def improves(self, evaluation: Mapping[str, float], step: int) -> bool:
        """Take an evaluation into account; returns whether it is the best so far. NaN is never better.

        Raises:
            ConfigurationError: there is no such metric.
        """
        if self.metric not in evaluation:
            raise ConfigurationError(
                f"best_metric = {self.metric!r}: is none of the task's metrics, which are {', '.join(evaluation)}"
            )
        value = evaluation[self.metric]
        better = not isnan(value) and (self.value is None or (value > self.value) == self._highest)
        if better and value == self.value:
            better = False
        if better:
            self.value, self.step, self._since = value, step, 0
        else:
            self._since += 1
        return better
