"""An example's training as it was seen from inside the model: which batches, at which rates, from where to where."""

import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from adamesh.data.digits import embedded_digits
from adamesh.models.cnn import SmallCNN
from adamesh.optimizer import MeshOptimizer

EXAMPLES = Path(__file__).parents[2] / "examples"
WORLD = 2


class Stopped(Exception):
    """By the test, in the middle of training."""


@dataclass
class Trace:
    batches: list[Tensor] = field(default_factory=list)
    """Images [n, 1, 8, 8] of each forward in training, on this worker."""
    rates: list[float] = field(default_factory=list)
    """The learning rate of each step."""
    begin: dict[str, Tensor] = field(default_factory=dict)
    end: dict[str, Tensor] = field(default_factory=dict)
    decay: dict[str, float] = field(default_factory=dict)
    """Weight decay by parameter."""
    max_grad_norm: float | None = None
    bytes_up: int = 0
    """Gradients that the last step sent, to other workers and to this one's own part."""
    accuracy: float = 0.0


def train(
    name: str,
    place: Path,
    constants: Mapping[str, int],
    options: Mapping[str, Any] = MappingProxyType({}),
    stop_after: int | None = None,
) -> Trace:
    """Run an example in this worker of the pool.

    Args:
        name: its file, without .py.
        place: for its checkpoints.
        constants: of the module, set before it runs.
        options: for its ``main``.
        stop_after: raise `Stopped` in the forward after so many.
    """
    with as_launched():
        example = loaded(name)
        for key, value in constants.items():
            assert hasattr(example, key)
            setattr(example, key, value)
        with recorded(stop_after) as trace:
            trace.accuracy = example.main(*arguments(name, place), **options)
    return trace


def arguments(name: str, place: Path) -> list[Any]:
    if name == "digits_fabric":
        from lightning.fabric import Fabric

        fabric = Fabric(accelerator="cpu", devices=WORLD, strategy="ddp")
        fabric.launch()
        return [fabric, place / "fabric.ckpt"]
    return [] if name == "digits_loop" else [place / "run"]


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def as_launched() -> Iterator[None]:
    """The environment that torchrun sets, in which hosts find their place."""
    rank = str(dist.get_rank())
    names = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "pool"}
    sizes = {"WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD)}
    os.environ.update(names | sizes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the hosts' own
            yield
    finally:
        for name in (*names, *sizes):
            os.environ.pop(name)
        if "accelerate" in sys.modules:
            from accelerate.state import AcceleratorState, GradientState

            GradientState._reset_state()
            AcceleratorState._reset_state(True)


@contextmanager
def recorded(stop_after: int | None) -> Iterator[Trace]:
    trace = Trace()
    models: list[SmallCNN] = []
    optimizers: list[MeshOptimizer] = []

    def before_forward(module: nn.Module, inputs: Sequence[Any]) -> None:
        if isinstance(module, SmallCNN) and module.training:
            if not models:
                models.append(module)
                trace.begin = copied(module)
            if len(trace.batches) == stop_after:
                raise Stopped
            trace.batches.append(inputs[0].clone())

    def before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if isinstance(optimizer, MeshOptimizer):
            trace.rates.append(optimizer.param_groups[0]["lr"])
            optimizers.append(optimizer)

    handles = [register_module_forward_pre_hook(before_forward), register_optimizer_step_pre_hook(before_step)]
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()
    (model,), optimizer = models, optimizers[-1]
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    trace.decay = {name: decay[p] for name, p in model.named_parameters()}
    trace.max_grad_norm = optimizer.plan.max_grad_norm
    trace.bytes_up = optimizer.stats().bytes_up
    trace.end = copied(model)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def by_torch(traces: Sequence[Trace]) -> dict[str, Tensor]:
    """Where torch's AdamW ends in one process, on the mean gradient of the same batches, at the same rates."""
    first = traces[0]
    answers = {image.numpy().tobytes(): label for image, label in zip(*embedded_digits(), strict=True)}
    model = SmallCNN(channels=1, side=8, classes=10)
    model.load_state_dict(first.begin, strict=False)  # statistics are not used in training
    groups = [{"params": [p], "weight_decay": first.decay[name]} for name, p in model.named_parameters()]
    optimizer = torch.optim.AdamW(groups)
    per_step = len(first.batches) // len(first.rates)
    for step, rate in enumerate(first.rates):
        for trace in traces:
            for images in trace.batches[step * per_step : (step + 1) * per_step]:
                labels = torch.stack([answers[image.numpy().tobytes()] for image in images])
                loss = nn.functional.cross_entropy(model(images), labels)
                (loss / (per_step * len(traces))).backward()
        if first.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), first.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return copied(model)
