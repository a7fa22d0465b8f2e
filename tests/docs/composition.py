"""What composes with what, found out by trying: ``python -m tests.docs.composition`` writes docs/composition.md."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import adamesh
from adamesh.codecs.coding import Coding, parts
from adamesh.engine.table import check_table
from adamesh.errors import ConfigurationError, IncompatiblePlan
from adamesh.layout import GRAIN
from adamesh.sync.base import Schedule
from tests.wire.world import CODECS

PAGE = Path(__file__).parents[2] / "docs" / "composition.md"
INTRODUCTION = """# What composes

Made by `python -m tests.docs.composition`, which tries every combination; a test compares. Each *no* is an
`adamesh.IncompatiblePlan`, and the note is what it says. `Warmup(..., steps)` changes nothing here: a plan must be
sound in every phase. `Frozen` and `Momentum` are tried with `adamesh.OneBitAdam`, everything else with `adamesh.AdamW`.
"""
SCHEDULES_INTRODUCTION = """## Schedules

Between islands of one worker. `Stale(0)` and `EveryH(1)` are `EveryStep`.
"""
SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "EveryStep()": adamesh.EveryStep,
    "EveryH(16)": lambda: adamesh.EveryH(16),
    "DiLoCo(64)": lambda: adamesh.DiLoCo(64),
    "DiLoCo(64, codec=Int8())": lambda: adamesh.DiLoCo(64, codec=adamesh.Int8()),
    "DiLoCo(64, fragments=4, delay=2)": lambda: adamesh.DiLoCo(64, fragments=4, delay=2),
    "DiLoCo(64, delay=2, blend=0.0)": lambda: adamesh.DiLoCo(64, delay=2, blend=0.0),
    "DiLoCo(64, delay=64)": lambda: adamesh.DiLoCo(64, delay=64),
    "Stale(1)": lambda: adamesh.Stale(1),
}
SHAPES = {"islands of one worker": (2, 1), "islands of several": (2, 2)}


def ways(codec: Coding) -> Mapping[str, Callable[[], None]]:
    """What a column tries, by its head."""

    def on(shape: tuple[int, int], wire: adamesh.Wire) -> None:
        adamesh.Plan(wire=wire)
        wire.check_mesh(*shape)
        freezes = isinstance(codec, adamesh.Frozen | adamesh.Momentum)
        wire.check_group({"betas": (0.9, 0.999)} | ({"frozen_after": None} if freezes else {}))

    several = SHAPES["islands of several"]
    columns: dict[str, Callable[[], None]] = {
        "UP": lambda: on(several, adamesh.Wire(up=codec)),
        "DOWN": lambda: on(several, adamesh.Wire(down=codec)),
        "UP, Async()": lambda: pushed(sync=adamesh.Async(), wire=adamesh.Wire(up=codec)),
        "UP, Async(outstanding=1)": lambda: pushed(sync=adamesh.Async(outstanding=1), wire=adamesh.Wire(up=codec)),
    }
    for name, shape in SHAPES.items():
        columns[f"across, {name}"] = lambda shape=shape: on(shape, adamesh.Wire(across=codec))  # type: ignore[misc]
    return columns


def pushed(**settings: Any) -> None:
    """A plan without steps in common."""
    adamesh.Plan(**settings)


ASYNC: Mapping[str, Mapping[str, Any]] = {
    "max_grad_norm=1.0": {"max_grad_norm": 1.0},
    "Wire(down=Int8())": {"wire": adamesh.Wire(down=adamesh.Int8())},
    "Wire(across=Int8())": {"wire": adamesh.Wire(across=adamesh.Int8())},
    "Wire(up=LowRank(4))": {"wire": adamesh.Wire(up=adamesh.LowRank(4))},
    "Wire(up=Warmup(Int8(), 100))": {"wire": adamesh.Wire(up=adamesh.Warmup(adamesh.Int8(), 100))},
    "compensation=0.04": {"sync": adamesh.Async(compensation=0.04)},
    "compensation=0.04, outstanding=1": {"sync": adamesh.Async(compensation=0.04, outstanding=1)},
    "max_lead=4": {"sync": adamesh.Async(max_lead=4)},
}
"""What else may be set beside ``sync=Async()``."""


def asynchronous(notes: dict[str, int]) -> list[str]:
    """The table of `ASYNC`."""
    rows = []
    for name, settings in ASYNC.items():
        attempt = partial(pushed, **{"sync": adamesh.Async(), **settings})
        rows.append(f"| {name} | {verdict(attempt, adamesh.Int8(), notes)} |")
    return ["| | with `sync=Async()` |", "|---|---|", *rows]


def page() -> str:
    """The whole page."""
    notes: dict[str, int] = {}
    rows = []
    codings: dict[str, Coding] = dict(CODECS)
    codings |= {f"Feedback({name})": adamesh.Feedback(codec) for name, codec in CODECS.items()}
    sign, one_bit = CODECS["sign"], adamesh.Feedback(CODECS["sign"])
    codings |= {"Frozen(sign)": adamesh.Frozen(sign), "Frozen(Feedback(sign))": adamesh.Frozen(one_bit)}
    codings |= {"Momentum(Feedback(sign))": adamesh.Momentum(one_bit)}
    codings |= {"Frozen(Momentum(Feedback(sign)))": adamesh.Frozen(adamesh.Momentum(one_bit))}
    for name, coding in codings.items():
        cells = [verdict(attempt, coding, notes) for attempt in ways(coding).values()]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    heads = list(ways(next(iter(codings.values()))))
    table = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads), *rows]
    pushes = asynchronous(notes)
    listed = [f"{number}. {text}" for text, number in notes.items()]
    return "\n".join([INTRODUCTION, *table, "", *pushes, "", *listed, "", *grains(), "", *schedules()]) + "\n"


def schedules() -> list[str]:
    """Which schedule works with what else."""
    codings: dict[str, Coding] = {
        "Int8": adamesh.Int8(),
        "Feedback(Int4)": adamesh.Feedback(adamesh.Int4()),
        "LowRank": adamesh.LowRank(2),
    }
    wires = {f"UP {name}": adamesh.Wire(up=coding) for name, coding in codings.items()}
    wires |= {"DOWN Int4": adamesh.Wire(down=adamesh.Int4())}
    wires |= {f"across {name}": adamesh.Wire(across=coding) for name, coding in codings.items()}
    attempts: dict[str, Callable[[Schedule], object]] = {
        head: lambda sync, wire=wire: adamesh.Plan(sync=sync, wire=wire)  # type: ignore[misc]
        for head, wire in wires.items()
    }
    attempts |= {
        "clipping": lambda sync: adamesh.Plan(sync=sync, max_grad_norm=1.0),
        "GradScaler": lambda sync: adamesh.GradScaler().step(optimizer(adamesh.AdamW, sync)),
        "sparse rows": lambda sync: check_table("rows", nn.Parameter(torch.zeros(2, 2)), "lazy", sync),
        "LBFGS": lambda sync: optimizer(adamesh.LBFGS, sync),
    }
    notes: dict[str, int] = {}
    rows = [
        f"| {name} | {' | '.join(judged(attempt, make, notes) for attempt in attempts.values())} |"
        for name, make in SCHEDULES.items()
    ]
    heads = [f"| | {' | '.join(attempts)} |", "|---|" + "---|" * len(attempts)]
    return [SCHEDULES_INTRODUCTION, *heads, *rows, "", *(f"{number}. {text}" for text, number in notes.items())]


def optimizer(build: Callable[..., Any], sync: Schedule) -> Any:
    """One of a parameter that has a gradient."""
    param = nn.Parameter(torch.zeros(2))
    param.grad = torch.ones(2)
    return build([param], plan=adamesh.Plan(sync=sync))


def judged(attempt: Callable[[Schedule], object], make: Callable[[], Schedule], notes: dict[str, int]) -> str:
    """Yes, or no and the number of the reason, in which the schedule and the wire are left out."""
    try:
        sync = make()
        attempt(sync)
    except ConfigurationError as error:
        text = re.sub(r"(EveryH|DiLoCo|Stale)\([^ ]*(h|s)=\d.*?\)(?= under| with|:)", "SCHEDULE", str(error))
        text = re.sub(r"Wire\(up=.*?\)(?=:)", "WIRE", text)
        text = re.sub(r"(?<=across=)(Int8|Feedback|LowRank)\(.*\)(?=\):)", "CODEC", text)
        text = re.sub(r"(?<=codec=)(Int8|Feedback|LowRank)\(.*\)(?=\);)", "CODEC", text)
        return f"no ({notes.setdefault(text, len(notes) + 1)})"
    return "yes"


def verdict(attempt: Callable[[], None], coding: Coding, notes: dict[str, int]) -> str:
    """Yes, or no and the number of the reason."""
    try:
        attempt()
    except IncompatiblePlan as error:
        text = str(error).replace(str(parts(coding).codec), "CODEC")
        return f"no ({notes.setdefault(text, len(notes) + 1)})"
    return "yes"


def grains() -> list[str]:
    """What codecs ask of the layout, and what they cost."""
    head = ["| | grain, elements | bytes per 1000 elements, padding aside | needs feedback UP |", "|---|---|---|---|"]
    rows = []
    for name, codec in CODECS.items():
        length = codec.grain * GRAIN
        share = 1000 * codec.payload_bytes(length) / length
        rows.append(f"| {name} | {codec.grain} | {share:.0f} | {'yes' if codec.needs_feedback else 'no'} |")
    return [*head, "| exact | 64 | 4000 (float32) | no |", *rows]


if __name__ == "__main__":
    PAGE.write_text(page())
