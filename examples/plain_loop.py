"""The model of `my_task.py` in a loop of one's own, without the trainer: only the optimizer is adamesh's.

python examples/plain_loop.py
torchrun --nproc-per-node 2 examples/plain_loop.py
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn

import adamesh

EPOCHS, BATCH_SIZE = 20, 64


def main() -> None:
    """Train, and print the test loss."""
    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group("gloo")  # "nccl" on GPUs
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    torch.manual_seed(0)  # the same data on every worker; parameters are the first one's anyway
    inputs = 4 * torch.rand(2000, 2) - 2
    targets = inputs[:, :1].sin() * inputs[:, 1:].cos()
    test, train = slice(0, 400), slice(400, 2000)

    model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = adamesh.AdamW(model.parameters(), lr=1e-2)  # was torch.optim.AdamW
    batches = -(-1600 // BATCH_SIZE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * batches)
    for _ in range(EPOCHS):
        for batch in torch.randperm(1600).split(BATCH_SIZE):
            mine = batch.tensor_split(size)[rank]
            loss = nn.functional.mse_loss(model(inputs[train][mine]), targets[train][mine])
            # The optimizer takes the mean over workers; where parts differ in size, weight them by it.
            (loss * len(mine) * size / len(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()

    if rank == 0:
        with torch.no_grad():
            error: Tensor = nn.functional.mse_loss(model(inputs[test]), targets[test])
        print(f"test loss {error:.5f}")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
