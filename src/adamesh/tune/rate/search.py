"""What is asked of ``adamesh find-lr``, as the configuration of a run whose learning rate rises."""

from dataclasses import dataclass, replace
from math import inf, log10

from adamesh.errors import ConfigurationError
from adamesh.guard import Guard
from adamesh.train.rules import RULES
from adamesh.train.settings import RunConfig, ScheduleSettings

__all__ = ["Search"]

_BELOW, _ABOVE = 1e-2, 1e5
"""Times torch's own learning rate for the rule: where the climb begins, and where it ends at the latest."""
_FEWEST_PER_DECADE = 12


@dataclass(frozen=True)
class Search:
    """From where to where the rate rises, and how fast."""

    lowest: float
    highest: float
    steps_per_decade: int
    num_seeds: int

    @classmethod
    def of(
        cls, config: RunConfig, lowest: float | None, highest: float | None, steps_per_decade: int, num_seeds: int
    ) -> "Search":
        """Ends that are None: the rule's.

        Raises:
            ConfigurationError: a number is out of range, or the range is less than a decade.
        """
        usual = RULES[config.optim.rule].defaults["lr"]
        search = cls(lowest or usual * _BELOW, highest or usual * _ABOVE, steps_per_decade, num_seeds)
        for name, value, least in (
            ("--seeds", num_seeds, 1),
            ("--steps-per-decade", steps_per_decade, _FEWEST_PER_DECADE),
        ):
            if value < least:
                raise ConfigurationError(f"{name} {value}: must be at least {least}")
        if not 0 < search.lowest <= search.highest / 10 < inf:
            raise ConfigurationError(
                f"--lowest {search.lowest:g} --highest {search.highest:g}: must be above 0 and at least a decade apart"
            )
        return search

    @property
    def steps(self) -> int:
        """Of one climb, if it goes all the way."""
        return 1 + round(log10(self.highest / self.lowest) * self.steps_per_decade)

    def configured(self, config: RunConfig) -> RunConfig:
        """The run that climbs: at the lowest rate, without what would change steps, or who makes them.

        Raises:
            ConfigurationError: workers would have no step in common.
        """
        if config.plan.schedule.kind == "async":
            raise ConfigurationError(
                f"plan.sync = {config.plan.sync!r}: workers have no steps in common, so no rate is theirs at a step; "
                "leave it out: a rate that suits synchronous steps is where to start from"
            )
        return replace(
            config,
            steps=self.steps,
            epochs=None,
            max_seconds=None,
            tolerance=None,
            elastic=None,
            optim=replace(config.optim, lr=self.lowest),
            schedule=ScheduleSettings(kind="constant", warmup_steps=0),
            plan=replace(config.plan, guard=False, balance=False, most_samples=None),
            guard=Guard(),
        )
