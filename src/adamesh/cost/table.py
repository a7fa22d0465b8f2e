"""Forecasts for people: a table for each link, what is recommended, and where the figures come from."""

from rich import box
from rich.console import Console
from rich.table import Table

from adamesh.cost.forecast import Forecast
from adamesh.cost.planning import Session
from adamesh.cost.rehearse import Memory

__all__ = ["amount", "print_session"]


def print_session(console: Console, session: Session) -> None:
    """Everything that was found."""
    _print_memory(console, session)
    for link, forecasts in session.forecasts.items():
        _print_times(console, session, link, forecasts)
    for line in _method(session):
        console.print(line, style="dim", soft_wrap=True)


def amount(num_bytes: float) -> str:
    """Bytes with a unit of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            return f"{num_bytes:.4g} {unit}" if num_bytes < 1000 else f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    raise AssertionError(num_bytes)


def _print_memory(console: Console, session: Session) -> None:
    columns = ("parameters", "gradients", "state", "exchange", "activations", "peak")
    table = _table("memory of a worker", *columns)
    for forecast in next(iter(session.forecasts.values())):
        fits = "" if forecast.fits else "does not fit"
        table.add_row(forecast.candidate.name, *_cells(forecast.rehearsed.counted), fits)
    console.print(table)


def _cells(memory: Memory) -> list[str]:
    parts = (memory.parameters, memory.gradients, memory.state, memory.exchange, memory.activations, memory.peak)
    return [amount(part) for part in parts]


def _print_times(console: Console, session: Session, link: str, forecasts: list[Forecast]) -> None:
    table = _table(f"a step over {link}", "bytes up", "bytes down", "work", "waits", "step", "samples/s")
    advice = session.advice[link]
    for forecast in forecasts:
        marked = "<- recommended" if forecast is advice.chosen else "" if forecast.fits else "does not fit"
        table.add_row(
            forecast.candidate.name,
            amount(forecast.rehearsed.bytes_up),
            amount(forecast.rehearsed.bytes_down),
            _ms(forecast.timing.work_s),
            _ms(forecast.step_s - forecast.timing.work_s),
            _ms(forecast.step_s),
            f"{forecast.samples_per_s:,.0f}",
            marked,
        )
    console.print(table)
    if advice.chosen is None:
        console.print(advice.reason, soft_wrap=True)
        return
    options = advice.chosen.candidate.options
    console.print(f"{link}: take {advice.chosen.candidate.name}: {advice.reason}", soft_wrap=True)
    console.print(f"  adamesh train {session.case.config.task} {options}".rstrip(), soft_wrap=True)
    if advice.exact is not None:
        exact = advice.exact
        console.print(f"  if nothing may change: {exact.candidate.name}, {_ms(exact.step_s)} a step", soft_wrap=True)


def _method(session: Session) -> list[str]:
    speed, lines = session.speed, []
    reasons = {f.rehearsed.not_traced for f in next(iter(session.forecasts.values()))} - {None}
    if session.measured:
        lines.append(
            "work: measured here, workers side by side; waits: links as given, what a message costs as measured"
        )
    else:
        lines.append(
            f"work: estimated, not measured, from {speed.flops_per_s / 1e9:,.0f} GFLOP/s, "
            f"{speed.bytes_per_s / 1e9:.0f} GB/s and {speed.operation_s * 1e6:.1f} µs an operation (--measure takes "
            "real steps; --tflops and --gbs say what other devices do)"
        )
    if reasons:
        lines.append(f"memory: the model cannot be traced on paper ({reasons.pop()}), so it was run here to count it")
    else:
        lines.append("memory: counted on tensors without numbers; the data set itself is not in it")
    lines.append("bytes: of one worker, the mean over a period of the schedule; waits: with those for slower workers")
    return lines


def _table(first: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
