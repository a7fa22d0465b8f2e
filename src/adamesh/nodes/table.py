"""A check of the nodes for people: who they are, a matrix of all pairs, what is wrong."""

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adamesh.nodes.record import Leg, NodesReport
from adamesh.nodes.verdict import clock_offsets, slow_legs

__all__ = ["print_nodes"]

_LEGEND = "Mbit/s over one TCP connection, from the row's node to the column's, and ms there and back; medians"


def print_nodes(console: Console, report: NodesReport) -> None:
    """Two tables, a line for each finding, a verdict."""
    offsets = clock_offsets(report.cards, report.legs)
    who = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("node", "host", "address", "interface", "chosen by", "clock", "torch", "adamesh", "Python"):
        who.add_column(column, overflow="fold")
    for card in report.cards:
        clock = f"{1e3 * offsets[card.rank]:+.1f} ms" if card.rank in offsets else ""
        cells = (str(card.rank), card.host, card.address, card.interface, card.chosen_by, clock)
        who.add_row(*map(escape, (*cells, card.torch, card.adamesh, card.python)))
    console.print(who)
    if report.legs:
        console.print(_matrix(report))
        console.print(_LEGEND, style="dim", soft_wrap=True)
    for finding in report.findings:
        console.print(f"{finding.level}: {finding.text}", markup=False, soft_wrap=True)
    if report.failed:
        console.print(f"nodes: a run on these {report.expected} would fail")
    else:
        note = " (mind the warnings)" if report.findings else ""
        console.print(f"nodes: all {report.expected} can talk to each other{note}; {report.seconds:.0f} s")


def _matrix(report: NodesReport) -> Table:
    slow = slow_legs(report.legs)
    legs = {(leg.sender, leg.receiver): leg for leg in report.legs}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("from")
    for card in report.cards:
        table.add_column(f"to {card.rank}", justify="right", no_wrap=True)
    for row in report.cards:
        cells = [_cell(legs.get((row.rank, column.rank)), slow) for column in report.cards]
        table.add_row(f"{row.rank}", *cells)
    return table


def _cell(leg: Leg | None, slow: list[Leg]) -> str:
    if leg is None:
        return ""
    if leg.mbit is None or leg.latency_s is None:
        return "[bold red]none[/]"
    text = f"{leg.mbit:,.1f}" if leg.mbit < 100 else f"{leg.mbit:,.0f}"
    text += f"  {1e3 * leg.latency_s:.2f}"
    return f"[bold yellow]{text}[/]" if leg in slow else text
