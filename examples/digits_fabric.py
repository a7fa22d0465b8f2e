"""digits_loop.py with Lightning Fabric: Fabric starts the workers and saves; adamesh's optimizer trains.

torchrun --nproc-per-node 2 examples/digits_fabric.py runs/fabric.ckpt
fabric run --accelerator cpu --devices 2 --strategy ddp examples/digits_fabric.py runs/fabric.ckpt
"""

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from lightning.fabric import Fabric, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import adamesh
from adamesh.data.digits import embedded_digits, split_evenly
from adamesh.models.cnn import SmallCNN

EPOCHS, BATCH_SIZE, LR = 6, 32, 3e-3  # the batch is each worker's
ACCUMULATED = 1  # batches to a step


def main(fabric: Fabric, file: Path) -> float:
    """Train, save every epoch; go on if there is something saved. Returns the accuracy on unseen digits."""
    seed_everything(0, verbose=False)
    images, labels = embedded_digits()
    train, test = split_evenly(labels)
    data = TensorDataset(images[train], labels[train])
    # Not by fabric.setup_dataloaders: its sampler counts epochs from 0 again where training goes on.
    sampler: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(data, fabric.world_size, fabric.global_rank)
    loader = DataLoader(data, BATCH_SIZE, sampler=sampler)

    model = fabric.to_device(SmallCNN(channels=1, side=8, classes=10))  # and not fabric.setup, which wraps it in DDP
    optimizer = adamesh.AdamW(model.named_parameters(), lr=LR)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-len(loader) // ACCUMULATED))
    begin = 0
    if file.exists():
        saved = fabric.load(file)
        model.load_state_dict(saved["model"])
        optimizer.load_full_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        begin = saved["epoch"]
    for epoch in range(begin, EPOCHS):
        sampler.set_epoch(epoch)
        for number, samples in enumerate(loader, start=1):
            batch, targets = fabric.to_device(samples)
            with fabric.autocast():
                loss = nn.functional.cross_entropy(model(batch), targets) / ACCUMULATED
            due = number % ACCUMULATED == 0 or number == len(loader)
            with nullcontext() if due else optimizer.no_sync():
                fabric.backward(loss)
            if due:
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
        adamesh.average_buffers(model)  # each worker's batch norm has seen its own batches
        state = {"model": model, "optimizer": optimizer.full_state_dict(), "scheduler": scheduler, "epoch": epoch + 1}
        fabric.save(file, state)

    model.eval()
    with torch.no_grad():
        accuracy: float = (model(images[test]).argmax(dim=1) == labels[test]).double().mean().item()
    fabric.print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    main(fabric, Path(sys.argv[1]))
