"""The worker of ``adamesh bench residual``: the same gradients through torch's low-rank hook and through ours."""

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from adamesh.adam import AdamW
from adamesh.bench.worker import bar
from adamesh.codecs.lowrank import LowRank
from adamesh.plan import Plan
from adamesh.wire import Wire

__all__ = ["OURS", "TORCHS", "Trial", "main", "save"]

OURS, TORCHS = "adamesh", "torch"
_TIMEOUT = timedelta(minutes=5)
_NOISE = 0.1
_TORCHS_FIRST = 2
"""Steps before torch's hook may begin to approximate: its own smallest number."""


@dataclass(frozen=True)
class Trial:
    """One matrix, and what is sent of its gradient."""

    size: int
    rank: int
    steps: int
    marks: tuple[int, ...]
    """Steps after which the norm of what is held back is written down, from 1."""


class _Linear(nn.Module):
    """A loss that is linear in one matrix: its gradient is what it is given."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(size, size))

    def forward(self, gradient_NN: Tensor) -> Tensor:
        return (self.matrix * gradient_NN).sum()


def main(arguments: Sequence[str]) -> int:
    """Run the trial in the file ``arguments[0]``; this worker's norms go beside it."""
    file = Path(arguments[0])
    plain = json.loads(file.read_text(encoding="utf-8"))
    trial = Trial(**{**plain, "marks": tuple(plain["marks"])})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=_TIMEOUT)
    norms = _norms(trial, dist.get_rank())
    file.with_name(f"norms{dist.get_rank()}.json").write_text(json.dumps(norms), encoding="utf-8")
    dist.barrier()
    gc.collect()  # DDP's reducer must not be the last to let go of the group: torch 2.13 may then deadlock
    dist.destroy_process_group()
    return 0


def _norms(trial: Trial, rank: int) -> dict[str, list[float]]:
    norms: dict[str, list[float]] = {}
    with bar(shown=rank == 0) as progress:
        for name, build in ((OURS, _ours), (TORCHS, _torchs)):
            task = progress.add_task(name, total=trial.steps)
            step, held_back = build(trial)
            norms[name] = []
            for number, gradient in enumerate(_gradients(trial, rank), start=1):
                step(gradient)
                if number in trial.marks:
                    norms[name].append(float(held_back().norm()))
                    progress.update(task, completed=number)
                    progress.refresh()
    return norms


def _gradients(trial: Trial, rank: int) -> Iterator[Tensor]:
    """A constant matrix that is this worker's own, and fresh noise: data that differ between workers for good."""
    generator = torch.Generator().manual_seed(1 + rank)
    own_NN = torch.randn(trial.size, trial.size, generator=generator)
    for _ in range(trial.steps):
        yield own_NN + _NOISE * torch.randn(trial.size, trial.size, generator=generator)


def _ours(trial: Trial) -> tuple[Callable[[Tensor], None], Callable[[], Tensor]]:
    model = _Linear(trial.size)
    optimizer = AdamW(model.named_parameters(), lr=1e-3, plan=Plan(wire=Wire(up=LowRank(trial.rank))))

    def step(gradient_NN: Tensor) -> None:
        optimizer.zero_grad()
        model(gradient_NN).backward()
        optimizer.step()

    def held_back() -> Tensor:
        (entry,) = optimizer.state_dict()["residuals"].values()
        held: Tensor = entry["residual_up"]
        return held

    return step, held_back


def _torchs(trial: Trial) -> tuple[Callable[[Tensor], None], Callable[[], Tensor]]:
    module = DistributedDataParallel(_Linear(trial.size))
    state = powerSGD_hook.PowerSGDState(
        process_group=None, matrix_approximation_rank=trial.rank, start_powerSGD_iter=_TORCHS_FIRST
    )
    module.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)

    def step(gradient_NN: Tensor) -> None:
        optimizer.zero_grad()
        module(gradient_NN).backward()
        optimizer.step()

    def held_back() -> Tensor:
        found = list(state.error_dict.values())
        return found[0] if found else torch.zeros(1)

    return step, held_back


def save(trial: Trial, folder: Path) -> Path:
    """Write a trial where workers read it."""
    file = folder / "trial.json"
    file.write_text(json.dumps(asdict(trial)), encoding="utf-8")
    return file
