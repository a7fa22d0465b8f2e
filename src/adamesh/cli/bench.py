"""``adamesh bench``: measured comparisons."""

import difflib
from collections.abc import Sequence

from adamesh.bench.options import StepOptions
from adamesh.cli.options import parse
from adamesh.errors import ConfigurationError

__all__ = ["run"]

_HELP = """\
usage: adamesh bench step [OPTIONS]

Measures on this machine, and prints a table and writes JSON.

benchmarks:
  step     One training step of adamesh, against PyTorch's own distributed optimizers: time, communication
           that backward could not hide, peak memory, optimizer state per worker.

adamesh bench step --help lists its options.
"""

_STEP_DESCRIPTION = """\
Times training steps of adamesh, DDP with fused AdamW, DDP with ZeroRedundancyOptimizer, FSDP2, and of forward
and backward alone, taking turns in one run; prints medians as a table and writes them as JSON.

examples:
  adamesh bench step
  adamesh bench step --models mlp --nproc 4
  adamesh bench step --tiny
"""


def run(argv: Sequence[str]) -> int:
    """Run a benchmark; returns the exit code."""
    name, *arguments = argv or ["--help"]
    if name in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if name != "step":
        near = " did you mean step?" if difflib.get_close_matches(name, ["step"]) else ""
        raise ConfigurationError(f"unknown benchmark {name};{near} there is one: adamesh bench step")
    options = parse(StepOptions, arguments, command="adamesh bench step", description=_STEP_DESCRIPTION)
    from adamesh.bench.step import bench_step
    from adamesh.cli.following import say

    if bench_step(options).agrees:
        return 0
    say("bench failed: who is marked DIFFERS did not end with the baseline's parameters; its times mean nothing")
    return 1
