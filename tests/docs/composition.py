"""What composes with what, found out by trying: ``python -m tests.docs.composition`` writes docs/composition.md."""

from collections.abc import Callable, Mapping
from pathlib import Path

import adamesh
from adamesh.codecs.coding import Coding, parts
from adamesh.errors import IncompatiblePlan
from adamesh.layout import GRAIN
from tests.wire.world import CODECS

PAGE = Path(__file__).parents[2] / "docs" / "composition.md"
INTRODUCTION = """# What composes

Made by `python -m tests.docs.composition`, which tries every combination; a test compares. Each *no* is an
`adamesh.IncompatiblePlan`, and the note is what it says. `Warmup(..., steps)` changes nothing here: a plan must be
sound in every phase. `Frozen` and `Momentum` are tried with `adamesh.OneBitAdam`, everything else with `adamesh.AdamW`.
"""
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
    }
    for name, shape in SHAPES.items():
        columns[f"across, {name}"] = lambda shape=shape: on(shape, adamesh.Wire(across=codec))  # type: ignore[misc]
    return columns


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
    listed = [f"{number}. {text}" for text, number in notes.items()]
    return "\n".join([INTRODUCTION, *table, "", *listed, "", *grains()]) + "\n"


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
