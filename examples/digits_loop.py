"""Handwritten digits in a plain loop; digits_accelerate.py and the others train the same through other people's loops.

torchrun --nproc-per-node 2 examples/digits_loop.py
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import adamesh
from adamesh.data.digits import embedded_digits, split_evenly
from adamesh.models.cnn import SmallCNN

EPOCHS, BATCH_SIZE, LR = 6, 32, 3e-3  # the batch is each worker's


def main() -> float:
    """Train; returns the accuracy on digits that the model has not seen, and prints it."""
    if "RANK" in os.environ and not dist.is_initialized():  # started by torchrun
        dist.init_process_group("gloo")  # "nccl" on GPUs
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    torch.manual_seed(0)
    images, labels = embedded_digits()
    train, test = split_evenly(labels)
    data = TensorDataset(images[train], labels[train])
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(data, size, rank)
    loader = DataLoader(data, BATCH_SIZE, sampler=sampler)

    model = SmallCNN(channels=1, side=8, classes=10)
    optimizer = adamesh.AdamW(model.named_parameters(), lr=LR)  # was torch.optim.AdamW; and there is no DDP
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for batch, targets in loader:
            nn.functional.cross_entropy(model(batch), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()

    adamesh.average_buffers(model)  # each worker's batch norm has seen its own batches
    model.eval()
    with torch.no_grad():
        accuracy: float = (model(images[test]).argmax(dim=1) == labels[test]).double().mean().item()
    if rank == 0:
        print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
    if dist.is_initialized():
        dist.destroy_process_group()
