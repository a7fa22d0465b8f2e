"""A benchmark's worker process: does one job, leaves what it found in a file.

Started by `adamesh.train.launch`; ``main`` gets the job's file.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adamesh.bench.contenders import KINDS, build
from adamesh.bench.measure import batches, deviations, measured_load, peak_bytes, take_turns
from adamesh.bench.models import workload
from adamesh.bench.options import BASELINE
from adamesh.bench.records import Found

__all__ = ["Job", "answer_file", "bar", "main"]

_TIMEOUT = timedelta(minutes=5)


@dataclass(frozen=True)
class Job:
    """What one group of workers is to measure: times where there are rounds, else memory."""

    model: str
    contenders: tuple[str, ...]
    threads: int
    tiny: bool
    device: str
    warmup: int = 0
    rounds: int = 0
    steps: int = 0

    def save(self, folder: Path) -> Path:
        """Write it where workers read it."""
        file = folder / "job.json"
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return file

    @classmethod
    def load(cls, file: Path) -> "Job":
        """Read what `save` wrote."""
        fields = json.loads(file.read_text(encoding="utf-8"))
        return cls(**{**fields, "contenders": tuple(fields["contenders"])})


def answer_file(folder: Path, rank: int) -> Path:
    """Where worker ``rank`` leaves what it found."""
    return folder / f"found{rank}.json"


def main(arguments: Sequence[str]) -> int:
    """Do the job in the file ``arguments[0]``; what was found goes beside it."""
    file = Path(arguments[0])
    job = Job.load(file)
    torch.set_num_threads(job.threads)
    device = _meet(job.device)
    answer = _times(job, device) if job.rounds else _memory(job, device)
    answer_file(file.parent, dist.get_rank()).write_text(json.dumps(answer), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
    return 0


def _meet(name: str) -> torch.device:
    """Join the other workers; returns this one's device."""
    if name == "cpu":
        dist.init_process_group("gloo", timeout=_TIMEOUT)
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl", timeout=_TIMEOUT, device_id=device)
    return device


def _times(job: Job, device: torch.device) -> dict[str, Any]:
    work = workload(job.model, tiny=job.tiny)
    rank = dist.get_rank()
    contenders = {name: build(name, work, device) for name in job.contenders}
    load = measured_load()
    with _turns_bar(job, shown=rank == 0) as on_turn:
        timings = take_turns(
            contenders,
            batches(work, rank, device),
            warmup=job.warmup,
            rounds=job.rounds,
            steps=job.steps,
            on_turn=on_turn,
        )
    load = measured_load(since=load)
    trained = {name: c for name, c in contenders.items() if KINDS[name].twin is not None}
    return Found(
        description=work.describe(),
        param_count=sum(p.numel() for p in work.build().parameters()),
        timings=timings,
        state_bytes={name: contender.state_bytes() for name, contender in contenders.items()},
        bytes_sent={name: contender.bytes_sent() for name, contender in contenders.items()},
        deviations=deviations(trained, work, BASELINE, device),
        load=load,
    ).to_json()


def _memory(job: Job, device: torch.device) -> dict[str, Any]:
    (name,) = job.contenders
    return {"peak_bytes": peak_bytes(name, job.model, tiny=job.tiny, rank=dist.get_rank(), device=device)}


@contextmanager
def _turns_bar(job: Job, *, shown: bool) -> Iterator[Callable[[], None]]:
    total = (job.warmup + job.rounds) * len(job.contenders)
    with bar(shown) as progress:
        task = progress.add_task(f"{job.model}: turns", total=total)

        def advance() -> None:
            progress.advance(task)
            progress.refresh()

        yield advance


def bar(shown: bool) -> Progress:
    """The benchmark's progress bar, on terminals only; whoever advances it also refreshes it."""
    console = Console()
    return Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # Not by a thread of its own: drawing would take time from what is being measured.
        auto_refresh=False,
        disable=not (shown and console.is_terminal),
    )
