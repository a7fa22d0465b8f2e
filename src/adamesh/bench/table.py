"""The printed form of results."""

from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from adamesh.bench.options import BASELINE, FLOOR
from adamesh.bench.summary import ContenderResult, ModelResult, Spread

__all__ = ["print_if_busy", "print_legend", "print_result"]

_MIB = 2**20
_QUIET_CORES = 0.1


def print_result(console: Console, title: str, result: ModelResult, shown: Sequence[str]) -> None:
    """One model's table, and under it where its baseline's step goes."""
    num_rounds = len(result.rounds_step_s[BASELINE][0])
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("step, ms\n[quartiles]", justify="right", no_wrap=True)
    table.add_column(f"x {BASELINE}\n[{'95 %' if num_rounds >= 6 else 'range'}]", justify="right", no_wrap=True)
    table.add_column("comm.,\nms (1)", justify="right", no_wrap=True)
    table.add_column("peak,\nMiB (2)", justify="right", no_wrap=True)
    table.add_column("state,\nMiB (3)", justify="right", no_wrap=True)
    table.add_column("sent,\nMiB (4)", justify="right", no_wrap=True)
    for name in shown:
        table.add_row(name, *_cells(result.contenders[name]))
    console.print(f"\n{title}: {result.description}; {result.param_count / 1e6:.1f} M parameters", soft_wrap=True)
    console.print(table)
    print_if_busy(console, result.foreign_cores)
    for line in _breakdown(result, shown):
        console.print(line, soft_wrap=True)


def print_if_busy(console: Console, foreign_cores: float) -> None:
    """Say so if other processes kept more than a little of the machine busy."""
    if foreign_cores > _QUIET_CORES:
        console.print(
            f"not a quiet machine: other processes kept {foreign_cores:.1f} cores busy meanwhile", style="yellow"
        )


def print_legend(console: Console, kinds: Mapping[str, tuple[str, str]], machine: str) -> None:
    """What the columns and the names mean.

    Args:
        console: where to.
        kinds: contender to what it is, and how the bytes it sends were computed.
        machine: on what this was measured.
    """
    for line in (
        machine,
        "(1) exposed communication: step time minus its twin's in the same round; a twin does the same forward,",
        "    backward and local update and does not communicate. What was hidden behind backward is not in it;",
        "    what communication took from backward's cores is. Medians.",
        "(2) growth of the worker that grew most, from before the model was built to the peak of 4 steps,",
        "    in fresh processes for each contender; parameters, gradients, buffers, activations are in it.",
        "(3) optimizer state of the worker that has most, counted tensor by tensor.",
        "(4) per step by a worker, on the average; W workers, P bytes of parameters, B of them in blocks.",
        f"(5) over the distance that {BASELINE}'s went from where all began: more than rounding DIFFERS.",
        *(f"{name}: {says}" + (f"; sends {sends}" if sends else "") for name, (says, sends) in kinds.items()),
    ):
        console.print(line, style="dim", soft_wrap=True)


def _cells(result: ContenderResult) -> Iterator[str]:
    yield _milliseconds(result.step_s)
    yield _ratio(result.ratio)
    yield "-" if result.communication_s is None else f"{result.communication_s.median * 1e3:.1f}"
    yield "-" if result.peak_bytes is None else f"{result.peak_bytes / _MIB:.0f}"
    yield f"{result.state_bytes / _MIB:.1f}"
    yield f"{result.bytes_sent / _MIB:.1f}"


def _breakdown(result: ModelResult, shown: Sequence[str]) -> Iterator[str]:
    """Where the step goes, by medians of differences; and whether all did the same work."""
    results = result.contenders
    whole, share = results.get("local"), results.get("local-share")
    communication_s = results[BASELINE].communication_s
    assert whole is not None and communication_s is not None
    yield (
        f"{BASELINE}'s step: forward and backward {results[FLOOR].step_s.median * 1e3:.1f} ms, "
        f"update {whole.over_floor_s.median * 1e3:.1f} ms, "
        f"communication {communication_s.median * 1e3:.1f} ms"
    )
    if share is not None:
        yield f"update of one worker's share: {share.over_floor_s.median * 1e3:.1f} ms"
    for name in shown:
        waited_s = results[name].waited_s
        if waited_s is not None:
            yield f"{name} waited {waited_s * 1e3:.1f} ms a step, by its own clock"
    apart = {name: results[name] for name in shown if name != BASELINE and results[name].relative_deviation is not None}
    if apart:
        ends = (f"{name} {c.relative_deviation:.1e}{'' if c.agrees else ' DIFFERS'}" for name, c in apart.items())
        yield f"distance of final parameters from {BASELINE}'s (5): {', '.join(ends)}"


def _milliseconds(spread: Spread) -> str:
    digits = 1 if spread.high < 0.05 else 0
    low, middle, high = (f"{value * 1e3:.{digits}f}" for value in (spread.low, spread.median, spread.high))
    return f"{middle} [{low}, {high}]"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.3f} [{spread.low:.2f}, {spread.high:.2f}]"
