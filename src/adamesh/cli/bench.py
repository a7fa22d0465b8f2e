"""``adamesh bench``: measured comparisons."""

import difflib
from collections.abc import Callable, Mapping, Sequence

from adamesh.bench.options import (
    AsyncOptions,
    BalanceOptions,
    ElasticOptions,
    LinkOptions,
    PlansOptions,
    ResidualOptions,
    StepOptions,
    WireOptions,
)
from adamesh.cli.options import parse
from adamesh.errors import ConfigurationError

__all__ = ["run"]

_HELP = """\
usage: adamesh bench NAME [OPTIONS]

Measures on this machine, and prints a table and writes JSON.

benchmarks:
  step     One training step of adamesh, against PyTorch's own distributed optimizers: time, communication
           that backward could not hide, peak memory, optimizer state per worker.
  link     Training over a slow link between two hosts, which it makes of this machine (as root): adamesh's
           codecs against DDP and its hooks: step time, bytes, loss after equal steps and after equal time.
  residual What low rank holds back of gradients where workers have different data, beside PyTorch's own hook.
  wire     What each codec costs: encoding and decoding against a copy in memory, compiled and eager; bytes per
           parameter, what is left over, and on how fast a link it pays.
  async    Training with one slow worker: every step together, and each worker at its own speed.
  balance  Training with one slow worker: equal shares of a batch, also with DDP, and shares by measured speed.
  plans    What adamesh plan --json has foretold, beside measured step times, bytes and memory of each plan.
  elastic  Workers are killed or stopped, again and again: seconds to the next step, what was lost, how exact it is.

adamesh bench NAME --help lists a benchmark's options.
"""

_STEP_DESCRIPTION = """\
Times training steps of adamesh, DDP with fused AdamW, DDP with ZeroRedundancyOptimizer, FSDP2, and of forward
and backward alone, taking turns in one run; prints medians as a table and writes them as JSON.

examples:
  adamesh bench step
  adamesh bench step --models mlp --nproc 4
  adamesh bench step --models gpt2 --device cuda --nproc 1
  adamesh bench step --tiny
"""

_LINK_DESCRIPTION = """\
Makes hosts of network namespaces, joined by a link that is limited with tc (needs root and iproute2), and trains
the same transformer on real text over it: DistributedDataParallel as it is and with torch's hooks, and adamesh with
codecs. Prints a table; writes JSON and, where matplotlib is installed, a plot. Removes the hosts again.

examples:
  adamesh bench link --mbit 100
  adamesh bench link --mbit 1000 --contenders ddp adamesh:int8 adamesh:int4
  adamesh bench link --mbit 20 --steps 64 --most-times 1 --contenders ddp adamesh:diloco-32/int4
  adamesh bench link --tiny --steps 5 --contenders ddp adamesh:sign/int4
"""

_WIRE_DESCRIPTION = """\
Times encoding and decoding of every codec, compiled and eager, against a copy of the same float32 numbers, taking
turns in one process with buffers made beforehand; prints medians as a table and writes them as JSON.

examples:
  adamesh bench wire
  adamesh bench wire --codecs int8 int4 --threads 2
  adamesh bench wire --device cuda
"""


_RESIDUAL_DESCRIPTION = """\
Sends gradients that differ between workers for good at low rank, through adamesh and through PyTorch's powerSGD_hook,
and follows the norm of what is held back for the steps to come. Prints a table; writes JSON and, where matplotlib is
installed, a plot.

examples:
  adamesh bench residual
  adamesh bench residual --rank 2 --size 64 --steps 1000
"""

_ASYNC_DESCRIPTION = """\
Trains the embedded digits on workers of which the last one is slowed down: every step together, and asynchronously
with several bounds on staleness. Accepted samples per second against what the workers do alone, what was rejected of
whom, and the test loss after the same number of accepted samples. Prints a table; writes JSON.

examples:
  adamesh bench async
  adamesh bench async --slow 10 --staleness 4 16 --seeds 1
"""

_BALANCE_DESCRIPTION = """\
Trains the embedded digits on workers of which the last one is slowed down: with equal shares of each batch, with
DistributedDataParallel, and with shares by measured speed. Samples per second against what the workers do alone, added
up; in how many steps shares follow the speeds. Prints a table; writes JSON.

examples:
  adamesh bench balance
  adamesh bench balance --nproc 4
  adamesh bench balance --by quota
"""

_ELASTIC_DESCRIPTION = """\
Trains a model of a million parameters on worker processes of which a random one is lost at a random moment, again and
again in one session; a standby takes its place. From the fault to the last survivor's next step; steps and samples lost
or repeated; final parameters beside those of one process without a fault. Prints a table; writes JSON.

examples:
  adamesh bench elastic
  adamesh bench elastic --dtype float64 --times 50
  adamesh bench elastic --up int4 --times 50
  adamesh bench elastic --fault stop --times 50
  adamesh bench elastic --victims 2 --redundancy 3 --times 50
"""

_PLANS_DESCRIPTION = """\
Trains a task with every plan that adamesh plan --json has written, over every link in the file, in turns: hosts are
made of network namespaces (as root), loopback needs none. Prints step time, bytes and peak memory, foretold and
measured, and how far the recommended plan is from the fastest; writes JSON.

examples:
  adamesh plan digits --measure --link loopback 1gbit+64kb 100mbit+64kb --json digits.json
  adamesh bench plans --file digits.json
  adamesh bench plans --file digits.json --plans exact int4 every-16 --rounds 4
"""


def run(argv: Sequence[str]) -> int:
    """Run a benchmark; returns the exit code."""
    name, *arguments = argv or ["--help"]
    if name in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if name not in _BENCHMARKS:
        near = difflib.get_close_matches(name, _BENCHMARKS, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ConfigurationError(f"unknown benchmark {name}; {meant}there are {', '.join(_BENCHMARKS)}")
    return _BENCHMARKS[name](arguments)


def _step(arguments: Sequence[str]) -> int:
    options = parse(StepOptions, arguments, command="adamesh bench step", description=_STEP_DESCRIPTION)
    from adamesh.bench.step import bench_step
    from adamesh.cli.following import say

    if bench_step(options).agrees:
        return 0
    say("bench failed: who is marked DIFFERS did not end with the baseline's parameters; its times mean nothing")
    return 1


def _link(arguments: Sequence[str]) -> int:
    options = parse(LinkOptions, arguments, command="adamesh bench link", description=_LINK_DESCRIPTION)
    from adamesh.bench.link import bench_link

    bench_link(options)
    return 0


def _plans(arguments: Sequence[str]) -> int:
    options = parse(PlansOptions, arguments, command="adamesh bench plans", description=_PLANS_DESCRIPTION)
    from rich.console import Console

    from adamesh.bench.plans import bench_plans

    bench_plans(options, Console(highlight=False, markup=False, width=max(150, Console().width)))
    return 0


def _residual(arguments: Sequence[str]) -> int:
    options = parse(ResidualOptions, arguments, command="adamesh bench residual", description=_RESIDUAL_DESCRIPTION)
    from adamesh.bench.residual import bench_residual

    bench_residual(options)
    return 0


def _wire(arguments: Sequence[str]) -> int:
    options = parse(WireOptions, arguments, command="adamesh bench wire", description=_WIRE_DESCRIPTION)
    from adamesh.bench.wire import bench_wire

    bench_wire(options)
    return 0


def _async(arguments: Sequence[str]) -> int:
    options = parse(AsyncOptions, arguments, command="adamesh bench async", description=_ASYNC_DESCRIPTION)
    from adamesh.bench.speeds import bench_async

    bench_async(options)
    return 0


def _balance(arguments: Sequence[str]) -> int:
    options = parse(BalanceOptions, arguments, command="adamesh bench balance", description=_BALANCE_DESCRIPTION)
    from adamesh.bench.balance import bench_balance

    bench_balance(options)
    return 0


def _elastic(arguments: Sequence[str]) -> int:
    options = parse(ElasticOptions, arguments, command="adamesh bench elastic", description=_ELASTIC_DESCRIPTION)
    from adamesh.bench.elastic import bench_elastic

    return 0 if bench_elastic(options).lost_nothing else 1


_BENCHMARKS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "step": _step,
    "link": _link,
    "residual": _residual,
    "wire": _wire,
    "async": _async,
    "balance": _balance,
    "plans": _plans,
    "elastic": _elastic,
}
