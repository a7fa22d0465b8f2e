"""Which plans are worth a thought: from those that change nothing to those that change what is trained."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from adamesh.errors import AdameshError
from adamesh.train.config import RunConfig
from adamesh.train.names import check_plan
from adamesh.train.settings import PlanSettings

__all__ = ["Candidate", "Effect", "candidates"]


class Effect(IntEnum):
    """What a plan does to what is trained; more is worse."""

    EXACT = 0
    """Nothing, beyond the order of sums."""
    CODED = 1
    """Gradients and changes travel rounded; what was dropped is sent later."""
    RARE = 2
    """Workers, or islands of them, step alone and agree now and then."""


@dataclass(frozen=True)
class Candidate:
    """A plan with a name."""

    name: str
    settings: PlanSettings
    effect: Effect
    for_safety: bool = False
    """It costs something so that losses of workers cost nothing; never recommended for its speed."""

    @property
    def options(self) -> str:
        """What `adamesh train` is given for it."""
        fields = ("islands", "up", "down", "across", "sync", "redundancy")
        given = {key: getattr(self.settings, key) for key in fields}
        plain = PlanSettings()
        return " ".join(f"--plan.{key} {value}" for key, value in given.items() if value != getattr(plain, key))


def candidates(config: RunConfig, world: int, per_host: int = 1) -> list[Candidate]:
    """Sensible plans for so many workers.

    Args:
        config: its ``[plan]`` is what they differ from; clipping, buckets and the like are kept.
        world: the number of workers.
        per_host: workers of a host, which may be an island.

    Raises:
        IncompatiblePlan: the configuration's own is unsound.
    """
    check_plan(config, world)
    found = []
    for candidate in _all(config.plan, world, per_host):
        try:
            check_plan(replace(config, plan=candidate.settings), world)
        except AdameshError:  # unsound with this rule, this clipping, ...: not sensible
            continue
        found.append(candidate)
    return found


def _all(base: PlanSettings, world: int, per_host: int) -> Iterator[Candidate]:
    plain = replace(
        base, islands=None, up="exact", down="exact", across="exact", sync="every-step", redundancy=None,
        outer_lr=None, outer_momentum=None, blend=None,
    )  # fmt: skip
    yield Candidate("exact", plain, Effect.EXACT)
    if world == 1:
        return
    yield Candidate("exact, redundancy 2", replace(plain, redundancy=2), Effect.EXACT, for_safety=True)
    for codec in ("bf16", "int8", "int4"):
        yield Candidate(codec, replace(plain, up=codec, down=codec), Effect.CODED)
    if 1 < per_host < world and world % per_host == 0:
        islands = world // per_host
        apart = replace(plain, islands=islands)
        yield Candidate(f"{islands} islands of {per_host}", apart, Effect.EXACT)
        for codec in ("int8", "int4"):
            yield Candidate(f"{islands} islands, {codec} across", replace(apart, across=codec), Effect.CODED)
        yield Candidate(f"{islands} islands, diloco-64", replace(apart, sync="diloco-64"), Effect.RARE)
    yield Candidate("every-16", replace(plain, sync="every-16"), Effect.RARE)
    yield Candidate("diloco-64", replace(plain, sync="diloco-64"), Effect.RARE)
    yield Candidate("diloco-64, int4", replace(plain, sync="diloco-64", across="int4"), Effect.RARE)
    if _says_something(base, plain):
        yield Candidate("as configured", base, Effect.CODED if _is_every_step(base) else Effect.RARE)


def _says_something(base: PlanSettings, plain: PlanSettings) -> bool:
    """Whether the configuration says something of its own."""
    return base != plain and base.schedule.kind != "async"


def _is_every_step(settings: PlanSettings) -> bool:
    return settings.schedule.is_every_step
