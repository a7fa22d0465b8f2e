"""``adamesh check --nodes``: can the machines of a run talk to each other?"""

import os
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from adamesh.cli.machines import Machines
from adamesh.errors import ConfigurationError

__all__ = ["NodesOptions", "run_nodes"]


@dataclass(frozen=True)
class NodesOptions:
    """Only for check --nodes: the run's own rendezvous, as adamesh train and torchrun have it."""

    nodes: bool = False
    """Check instead whether the machines of a run can talk to each other: run it on each of them."""
    nnodes: int = 1
    """nodes: how many machines; 1: rehearse with --nproc processes on this one."""
    node_rank: int = 0
    """nodes: the number of this machine, from 0."""
    rdzv_endpoint: str | None = None
    """nodes: HOST:PORT of machine 0, where they meet."""
    wait_s: float = 60.0
    """nodes: seconds to wait for the other machines."""
    json: bool = False
    """nodes: print the report as JSON."""


def run_nodes(options: NodesOptions, nproc: int, out: Path | None) -> int:
    """Check, and print what was found on the first node; returns the exit code.

    Args:
        options: how the nodes meet.
        nproc: processes, if there is one machine.
        out: a folder for nodes.json; None: none is kept.
    """
    if not 0 < options.wait_s < 1e6:
        raise ConfigurationError(f"--wait-s {options.wait_s}: must be a finite number above 0")
    from adamesh.cli.following import follow, say, speaks
    from adamesh.nodes.check import check_nodes
    from adamesh.nodes.meeting import Place
    from adamesh.nodes.record import REPORT, NodesReport
    from adamesh.nodes.table import print_nodes
    from adamesh.train import existing

    report: NodesReport | None
    first = speaks()
    if existing.is_present():
        report = check_nodes(Place.of_launch(options.wait_s))
    elif options.nnodes > 1:
        host, port = _endpoint(options)
        first = options.node_rank == 0
        report = check_nodes(Place(host, port, options.node_rank, options.nnodes, wait_s=options.wait_s))
    else:
        if nproc < 2:
            raise ConfigurationError(f"--nproc {nproc}: there is nobody to talk to; give at least 2, or --nnodes")
        with tempfile.TemporaryDirectory(prefix="adamesh-") if out is None else nullcontext(out) as place:
            folder = Path(place).resolve()
            (folder / "logs").mkdir(parents=True, exist_ok=True)
            arguments = [str(folder), str(options.wait_s)]
            code = follow("adamesh.nodes.check", arguments, folder, nproc, saves=False)
            if code or not (folder / REPORT).exists():
                return code or 1
            report = NodesReport.load(folder)
    if report is None:
        return 0
    if not first:
        say("checked; the first node shows what was found")
    else:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            report.save(out)
        if options.json:
            print(report.dumps())
        else:
            from rich.console import Console

            print_nodes(Console(highlight=False, width=_width()), report)
    return 1 if report.failed else 0


def _endpoint(options: NodesOptions) -> tuple[str, int]:
    address = Machines(options.nnodes, options.node_rank, options.rdzv_endpoint).address
    if address is None:
        raise ConfigurationError(f"--nnodes {options.nnodes}: all machines need --rdzv-endpoint HOST:PORT of machine 0")
    if not 0 <= options.node_rank < options.nnodes:
        raise ConfigurationError(
            f"--node-rank {options.node_rank}: must be from 0 to {options.nnodes - 1}, --nnodes - 1"
        )
    return address


def _width() -> int | None:
    """Wide, where it goes to a file."""
    return None if os.isatty(1) else 160
