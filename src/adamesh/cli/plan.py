"""``adamesh plan``: what will training cost, before one has the machines?"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from adamesh.cli.options import FLAT, parse
from adamesh.cli.train import configured
from adamesh.errors import ConfigurationError
from adamesh.train.settings import RunConfig

__all__ = ["run"]

_DESCRIPTION = """\
What will training cost on so many workers? For each sensible plan: memory of a worker by what it is for, bytes and
time of a step over each link; which plans fit, and which one to take, with the reason. No worker and no network is
needed: one worker's step is rehearsed on tensors without numbers, by the optimizer's own code.

--measure takes real steps on this machine and puts their times, and what a message costs here, in place of estimates.
--scaling goes on to thousands of workers, with stragglers and failures, and draws curves.

All options of adamesh train are taken too.

examples:
  adamesh plan
  adamesh plan text --world 8 --link 100mbit 1gbit --device-memory 24GiB
  adamesh plan my_task.py --world 16 --per-host 4 --link 1gbit --island-link 25gbit
  adamesh plan cifar10-cnn --world 2 --link loopback 1gbit 100mbit --measure
  adamesh plan imagenet-resnet50 --world 64 --link 10gbit --tflops 30 --gbs 900
  adamesh plan text --link 1gbit --scaling 4096
"""
_LEAST_WIDTH = 120
_SIZES = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    what: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TASK|CONFIG.toml|my_task.py")] = None
    """As for adamesh train; not set: digits."""
    world: int = 2
    """Workers in all."""
    link: tuple[str, ...] = ("1gbit",)
    """Between hosts: a rate, with one way's latency if it is known: 100mbit, 10gbit, 100mbit/20ms; or loopback."""
    per_host: int = 1
    """Workers of a host; more than one, and fewer than all, may be an island."""
    island_link: str | None = None
    """Between workers of one host; not set: as --link."""
    device_memory: str | None = None
    """Of each worker: 24GiB, 512MiB; not set: any."""
    measure: bool = False
    """Take real steps here, and use their times."""
    tflops: float | None = None
    """A worker's device, in 10^12 FLOP/s that it reaches; not set: as this machine multiplies matrices."""
    gbs: float | None = None
    """Its memory, in 10^9 bytes/s; not set: as this machine copies."""
    every_step: bool = False
    """Recommend only plans whose workers agree in every step."""
    scaling: int | None = None
    """Simulate fleets of up to so many workers too, each with the batch that one of --world has."""
    json: Path | None = None
    """Write everything there as JSON, and the configuration beside it as .toml; adamesh bench plans measures it."""
    run: Annotated[RunConfig, FLAT] = field(default_factory=RunConfig)


def run(argv: Sequence[str]) -> int:
    """Plan, and print what was found; returns the exit code."""
    options, config = configured(argv, _parse)
    for name, value in (("--world", options.world), ("--per-host", options.per_host)):
        if value < 1:
            raise ConfigurationError(f"{name} {value}: must be at least 1")
    if config.plan.schedule.kind == "async":
        raise ConfigurationError(
            f"plan.sync = {config.plan.sync}: asynchronous workers have no step in common, whose cost could be told; "
            "adamesh bench async measures them, and plan --scaling simulates them beside the others"
        )
    device_bytes = None if options.device_memory is None else _bytes_of(options.device_memory)

    from rich.console import Console

    from adamesh.cost.calibrate import probe_speed
    from adamesh.cost.case import open_case
    from adamesh.cost.links import parse_link
    from adamesh.cost.paper import Speed
    from adamesh.cost.planning import Request, plan_for
    from adamesh.cost.table import print_session
    from adamesh.train.config import write_config
    from adamesh.train.files import write_whole

    links = tuple(map(parse_link, options.link))
    island_link = None if options.island_link is None else parse_link(options.island_link)
    here = probe_speed()
    speed = Speed(
        flops_per_s=here.flops_per_s if options.tflops is None else options.tflops * 1e12,
        bytes_per_s=here.bytes_per_s if options.gbs is None else options.gbs * 1e9,
        operation_s=here.operation_s,
    )
    case = open_case(config, options.world)
    console = Console(highlight=False, markup=False, width=max(_LEAST_WIDTH, Console().width))
    request = Request(links, island_link, options.per_host, device_bytes, options.measure, speed, options.every_step)
    with console.status("") as status:
        session = plan_for(case, request, status.update)
    assert case.config.batch_size is not None
    console.print(
        f"{case.config.task}: {options.world} workers, {case.config.batch_size} samples a step, {case.splits.source}",
        soft_wrap=True,
    )
    print_session(console, session)
    found = session.to_json()
    if options.scaling is not None:
        from adamesh.cost.scaling import scale

        found["scaling"] = scale(session, options.scaling, console)
    if options.json is not None:
        write_whole(options.json, json.dumps(found, indent=1) + "\n")
        write_config(case.config, options.json.with_suffix(".toml"))
        console.print(f"written to {options.json}, the configuration beside it", soft_wrap=True)
    return 0 if all(advice.chosen for advice in session.advice.values()) else 1


def _bytes_of(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]i?B)", text, flags=re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise ConfigurationError(f"--device-memory {text}: must be a size with its unit, as in 24GiB or 512MiB")
    return float(found[1]) * _SIZES[found[2].lower()]


def _parse(argv: Sequence[str], config: RunConfig) -> Options:
    default = Options(run=config)
    return parse(Options, argv, command="adamesh plan", description=_DESCRIPTION, default=default)
