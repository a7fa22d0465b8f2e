"""A loop of one's own whose workers may be lost, come and go.

Three workers, as torchrun or Ray would start them; then one more, and one less:

export ADAMESH_TOKEN=$(openssl rand -hex 16) MASTER_ADDR=127.0.0.1 MASTER_PORT=29400 WORLD_SIZE=3
for RANK in 0 1 2; do RANK=$RANK python examples/elastic_loop.py runs/loop & done
ADAMESH_JOIN=1 python examples/elastic_loop.py runs/loop &
kill -KILL %2
"""

import math
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import adamesh

EPOCHS, BATCH_SIZE, LR, SAVE_EVERY = 12, 64, 2e-2, 100


def main(folder: Path) -> None:
    """Train, and print the test loss.

    Args:
        folder: for the checkpoint and the members' addresses, on a disk that all workers see.
    """
    torch.manual_seed(0)  # the same data on every worker
    inputs = 4 * torch.rand(2000, 2) - 2
    targets = inputs[:, :1].sin() * inputs[:, 1:].cos()
    test, train = slice(0, 400), slice(400, 2000)
    model = nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 1))

    workers = adamesh.elastic(folder, tell=lambda change: print(change.name, change.how, "at step", change.step))
    signal.signal(signal.SIGTERM, lambda *_: workers.leave())  # go at the end of the step; the others go on
    plan = adamesh.Plan(mesh=workers, redundancy=2)
    optimizer = adamesh.AdamW(model.named_parameters(), lr=LR, plan=plan)
    sampler = adamesh.ElasticSampler(1600, BATCH_SIZE, optimizer, epochs=EPOCHS)
    saver = adamesh.Saver(model, optimizer)
    epoch = -1

    def load() -> None:
        adamesh.load(folder / "checkpoint", model, optimizer)

    for indices in sampler:
        with adamesh.surviving(optimizer, load):
            # What workers do together beside the step stands before it, and depends on these two numbers only, which
            # are the same everywhere: whatever happens, all come back here, and do the same.
            if workers.formation.epoch != epoch:  # somebody has come or gone
                adamesh.broadcast_buffers(model, workers.formation.world)
                epoch = workers.formation.epoch
            if optimizer.steps_made % SAVE_EVERY == 0:
                try:
                    saver.save(folder / "checkpoint")
                except adamesh.CheckpointError as error:  # somebody was lost while the one before was written
                    print(error)

            # A newcomer has made no steps of its own: the rate follows from the number of the step.
            done = optimizer.steps_made / (EPOCHS * sampler.order.steps_per_epoch)
            optimizer.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * done)) / 2
            optimizer.zero_grad()
            if len(indices):
                loss = nn.functional.mse_loss(model(inputs[train][indices]), targets[train][indices])
                (loss * sampler.weight).backward()
            optimizer.step()  # may return with a step that is not made: the same samples come again

    first, saved = optimizer.mesh.world.rank == 0, False
    while not saved:
        with adamesh.surviving(optimizer, load):
            adamesh.average_buffers(model, optimizer.mesh.world)
            saver.save(folder / "checkpoint")
            saver.wait()
            saved = True
    if first:
        model.eval()
        with torch.no_grad():
            test_loss: Tensor = nn.functional.mse_loss(model(inputs[test]), targets[test])
        print(f"test loss {test_loss:.5f}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except adamesh.Expelled as error:
        print(error)
