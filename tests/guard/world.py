"""Workers as threads that train a small model under a guard, and ways to spoil a step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.engine.refusal import Refusal
from tests.device import DEVICE

NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")


class Worker:
    """One worker: its model, optimizer and data, which are another's at every step and rank."""

    def __init__(
        self, mesh: Mesh, guard: adamesh.Guard | None, dtype: torch.dtype = torch.float32, **plan: Any
    ) -> None:
        self.mesh = mesh
        self.model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).to(DEVICE, dtype)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 3)
        plan = {"bucket_mb": 1e-3} | plan
        self.optimizer = adamesh.AdamW(
            self.model.named_parameters(), lr=1e-3, plan=adamesh.Plan(mesh=mesh, guard=guard, **plan)
        )
        self.params = dict(self.model.named_parameters())

    def backward(self, step: int) -> float:
        """The gradients of a step, and their loss."""
        generator = torch.Generator().manual_seed(1000 * step + self.mesh.world.rank)
        x = torch.randn(8, 12, generator=generator).to(self.params["0.bias"])
        loss = (self.model(x) - x[:, :4]).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        return float(loss.detach())

    def step(self, step: int, spoil: Callable[["Worker"], object] | None = None) -> None:
        """One step; ``spoil`` is called with this worker before it is sent."""
        self.backward(step)
        if spoil is not None:
            spoil(self)
        self.optimizer.step()

    def held(self) -> dict[str, Tensor]:
        """A copy of all that a skipped step must leave alone, by name."""
        state = self.optimizer.state_dict()
        kept = {f"param {name}": p.detach().clone() for name, p in self.params.items()}
        for kind in ("state", "residuals"):
            for name, entry in state.get(kind, {}).items():
                for key, value in entry.items():
                    if isinstance(value, Tensor | int | float):
                        kept[f"{kind} {name} {key}"] = torch.as_tensor(value).clone()
        return kept


def refusal(optimizer: adamesh.MeshOptimizer) -> Refusal:
    """Of the last step, which was not made."""
    stats = optimizer.stats()
    assert stats.refusal is not None
    assert not stats.committed
    return stats.refusal


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def times(factor: float, name: str) -> Callable[[Worker], object]:
    """Multiply a parameter's gradient before it is sent."""

    def spoil(worker: Worker) -> None:
        gradient = worker.params[name].grad
        assert gradient is not None
        gradient.mul_(factor)

    return spoil


def flip(tensor: Tensor, element: int, bit: int) -> None:
    """Flip a bit of an element, unseen by autograd, as a broken memory would."""
    word = tensor.data.view(-1).view(torch.int32 if tensor.element_size() == 4 else torch.int16)
    word[element] ^= torch.tensor(1, dtype=torch.int64).bitwise_left_shift(bit).to(word)


def everywhere(shape: tuple[int, int], law: Callable[..., Any], *args: Any) -> Sequence[Any]:
    """What each worker of a mesh of so many islands and workers returns."""
    return ThreadWorld(*shape).run(law, *args)
