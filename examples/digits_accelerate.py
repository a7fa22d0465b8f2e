"""digits_loop.py with Hugging Face Accelerate: the optimizer is adamesh's, everything else is Accelerate's.

torchrun --nproc-per-node 2 examples/digits_accelerate.py runs/accelerate
accelerate launch --cpu --num_processes 2 examples/digits_accelerate.py runs/accelerate
"""

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import adamesh
from adamesh.data.digits import embedded_digits, split_evenly
from adamesh.models.cnn import SmallCNN

EPOCHS, BATCH_SIZE, LR = 6, 32, 3e-3  # the batch is each worker's
ACCUMULATED = 1  # batches to a step


def main(folder: Path) -> float:
    """Train, save every epoch; go on if there is something saved. Returns the accuracy on unseen digits."""
    accelerator = Accelerator(
        cpu=True,  # leave it out on GPUs
        gradient_accumulation_steps=ACCUMULATED,
        dataloader_config=DataLoaderConfiguration(
            use_seedable_sampler=True
        ),  # an order by epoch, that can be gone on with
    )
    set_seed(0)
    images, labels = embedded_digits()
    train, test = split_evenly(labels)
    loader = DataLoader(TensorDataset(images[train], labels[train]), BATCH_SIZE, shuffle=True)

    # `evaluation_mode` is Accelerate's word for: to its device, with mixed precision, and not into DDP.
    model = accelerator.prepare_model(SmallCNN(channels=1, side=8, classes=10), evaluation_mode=True)
    optimizer = adamesh.AdamW(model.named_parameters(), lr=LR)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    loader, scheduler = accelerator.prepare(loader, scheduler)  # not the optimizer: its state is saved in parts, below

    def save(models: list[nn.Module], weights: list[dict[str, Any]], place: str) -> None:
        adamesh.save(Path(place) / "adamesh", model, optimizer)
        weights.clear()  # saved with it

    def load(models: list[nn.Module], place: str) -> None:
        adamesh.load(Path(place) / "adamesh", model, optimizer)
        models.clear()

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)
    if folder.exists():
        accelerator.load_state(str(folder))
    steps = -(-len(loader) // ACCUMULATED)  # an epoch; Accelerate makes the last one of what is left
    for epoch in range(optimizer.steps_made // steps, EPOCHS):
        loader.set_epoch(epoch)
        for batch, targets in loader:
            with accelerator.accumulate(optimizer):  # sends with the last batch of a step
                accelerator.backward(nn.functional.cross_entropy(model(batch), targets))
            if accelerator.sync_gradients:
                optimizer.step()
                optimizer.zero_grad()
            scheduler.step()
        adamesh.average_buffers(model)  # each worker's batch norm has seen its own batches
        accelerator.save_state(str(folder))

    model.eval()
    with torch.no_grad():
        accuracy: float = (model(images[test]).argmax(dim=1) == labels[test]).double().mean().item()
    accelerator.print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main(Path(sys.argv[1]))
