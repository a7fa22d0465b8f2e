"""Ray Train with adamesh's optimizer: the same workers from the beginning to the end, or to a checkpoint.

If one is lost, Ray Train ends the others too, and starts all of them again, here up to three times.

python docs/recipes/ray_train.py /shared/runs/first
"""

import sys
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch import nn

import adamesh

EPOCHS = 40


def build_model() -> nn.Module:
    """The same on every worker."""
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))


def train(config: dict[str, Any]) -> None:
    """What each worker does; Ray has made a process group of them."""
    torch.manual_seed(0)  # the same data on every worker
    inputs = torch.randn(512, 16)
    targets = inputs.sum(dim=1, keepdim=True)
    model = build_model()
    optimizer = adamesh.AdamW(model.named_parameters(), lr=1e-2)
    checkpoint = Path(config["folder"]) / "checkpoint"
    if (checkpoint / "manifest.json").exists():
        adamesh.load(checkpoint, model, optimizer)
    sampler = adamesh.ElasticSampler(len(inputs), batch_size=128, optimizer=optimizer, epochs=EPOCHS)
    for indices in sampler:  # goes on where the checkpoint was
        loss = nn.functional.mse_loss(model(inputs[indices]), targets[indices])
        (loss * sampler.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
        if optimizer.steps_made % 40 == 0:
            adamesh.save(checkpoint, model, optimizer)
            ray.train.report({"loss": loss.item(), "steps": optimizer.steps_made})


def fit(folder: Path, num_workers: int) -> Any:
    """Train, and return Ray's result."""
    trainer = TorchTrainer(
        train,
        train_loop_config={"folder": str(folder)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=num_workers),
        run_config=RunConfig(storage_path=str(folder), failure_config=FailureConfig(max_failures=3)),
    )
    return trainer.fit()


if __name__ == "__main__":
    print(fit(Path(sys.argv[1]).resolve(), num_workers=2))
