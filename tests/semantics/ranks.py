"""What laws are written with: ranks as threads, gradients to order, and the textbook's answer."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from tests.device import DEVICE
from tests.reference.adam import TextbookAdam
from tests.tolerances import TEXTBOOK

Model = TypeVar("Model", bound=nn.Module)
PLAN = ("max_grad_norm", "overlap", "bucket_mb")


def everywhere(num_ranks: int, law: Callable[..., Any], *args: Any) -> list[Any]:
    """What each rank of one island returns from ``law(mesh, *args)``."""
    return ThreadWorld(1, num_ranks).run(law, *args)


def adamw(mesh: Mesh, params: Any, **options: Any) -> adamesh.AdamW:
    """An AdamW on this mesh; the plan's settings are given along with its own."""
    plan = adamesh.Plan(mesh=mesh, **{key: options.pop(key) for key in PLAN if key in options})
    return adamesh.AdamW(params, **options, plan=plan)


def parameter(*values: float, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype, device=DEVICE))


def filled(model: Model) -> Model:
    """The model with parameters that are always the same; threads share torch's own random state."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 2)
    return model.to(DEVICE)


def pull(p: Tensor, *gradient: float) -> None:
    """A backward that adds exactly this to ``p.grad``; one number is for all elements."""
    (p * torch.tensor(gradient, dtype=p.dtype, device=p.device)).sum().backward()


def grad(p: Tensor) -> Tensor:
    """``p.grad``, which there is."""
    assert p.grad is not None
    return p.grad


def textbook(start: Sequence[float], *steps: Sequence[float | None], **options: Any) -> Tensor:
    """Where one AdamW step for each list of the ranks' gradients (the same for all elements) leads to."""
    book = TextbookAdam(torch.tensor(start, dtype=torch.float64), **options)
    for gradients in steps:
        book.step([None if g is None else torch.full_like(book.master, g) for g in gradients])
    return book.master


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Equal but for what the two ways to compute it round differently."""
    difference = (ours.detach().cpu().double() - theirs.detach().cpu().double()).abs().max()
    return float(difference) <= TEXTBOOK[ours.dtype]


def state(optimizer: adamesh.MeshOptimizer, name: str = "0.0") -> dict[str, Any]:
    """A copy of what this rank keeps of a parameter."""
    entry = optimizer.state_dict()["state"][name]
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in entry.items()}
