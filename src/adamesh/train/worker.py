"""What each process of a run executes: ``python -m adamesh.train.worker RUN_DIR [--resume]``.

RUN_DIR has the run's ``config.toml``; who the other workers are stands in the environment, as torchrun, Slurm
or Ray set it: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from adamesh.errors import ConfigurationError, Expelled
from adamesh.tasks.catalog import find_task
from adamesh.train.config import RunConfig, load_config, resolved
from adamesh.train.elastic import Departed, elastic_here, warm_up
from adamesh.train.progress import Handed, display_for
from adamesh.train.rehearsal import DRILL, Rehearsal
from adamesh.train.run import Run
from adamesh.train.summary import Summary
from adamesh.train.trainer import Trainer
from adamesh.train.watching import DEPARTED, EXPELLED
from adamesh.train.workers import CompanyWorkers, GroupWorkers, Workers

__all__ = ["choose_device", "main", "run_worker"]


def run_worker(run_dir: Path, resume: bool) -> Summary:
    """Train the run in ``run_dir`` as one of its workers, from the start or from its newest checkpoint.

    Raises:
        AdameshError: what was wrong with the settings, the data, the checkpoints, or on the way.
    """
    config = load_config(run_dir / "config.toml")
    task = find_task(config.task)
    config = resolved(config, task)
    config.check_world(config.most_workers(_number("WORLD_SIZE", 1)))
    device = choose_device(config)
    splits = task.load_data(config.data, config.seed)
    if config.elastic is not None:
        warm_up(task, splits, device)
    elastic = elastic_here(config.elastic)
    if elastic is None:
        workers: Workers = GroupWorkers.join(device, config.plan.timeout_s, config.backend)
        display = display_for(workers.is_first)
    else:
        workers = CompanyWorkers(elastic.company)
        if folder := os.environ.get(DRILL):
            elastic.company.listen = Rehearsal(Path(folder), elastic.company.name, os.environ).note
        display = Handed(lambda: workers.is_first)
    run = Run(config, task, splits, run_dir, workers, device)
    summary = Trainer(run, display, elastic).train(resume)
    workers.part()
    return summary


def choose_device(config: RunConfig) -> torch.device:
    """This worker's device: the GPU of its number on this machine, or the CPU.

    Workers share GPUs only where they are asked to be on GPUs, and talk by Gloo (elastic ones do).

    Raises:
        ConfigurationError: cuda is wanted and there are fewer GPUs than workers on this machine.
    """
    needed, number = _number("LOCAL_WORLD_SIZE", 1), _number("LOCAL_RANK", 0)
    if config.elastic is not None:
        needed = max(needed, config.nproc)  # who joins alone is to be where the founders are
    found = torch.cuda.device_count() if config.device != "cpu" and torch.cuda.is_available() else 0
    asked = "device = 'cuda'" if config.device == "cuda" else "backend = 'nccl'" if config.backend == "nccl" else None
    if asked is not None:
        shares = config.device == "cuda" and (config.backend == "gloo" or config.elastic is not None)
        if found == 0 or (found < needed and not shares):
            fewer = "start fewer workers, let them share GPUs with device = 'cuda' and backend = 'gloo', or "
            raise ConfigurationError(
                f"{asked}: {needed} workers on this machine need as many GPUs, and it has {found}; "
                f"{fewer if found else ''}leave it out"
            )
    elif found < needed:
        return torch.device("cpu")
    device = torch.device("cuda", number % found)
    torch.cuda.set_device(device)
    return device


def main(arguments: Sequence[str]) -> int:
    """The process's entry; exceptions are for whoever started it to report."""
    parser = argparse.ArgumentParser(prog="adamesh.train.worker")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    # A launcher that starts workers again after a failure does so with the same arguments.
    restarted = _number("TORCHELASTIC_RESTART_COUNT", 0) > 0
    try:
        run_worker(options.run_dir, options.resume or restarted)
    except Expelled as error:
        sys.stderr.write(f"{error}\n")
        return EXPELLED
    except Departed:
        return DEPARTED
    return 0


def _number(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))


if __name__ == "__main__":
    # Under somebody else's torchrun, its error file gets the reason.
    sys.exit(record(main)(sys.argv[1:]))
