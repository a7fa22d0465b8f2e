"""A training loop of somebody's own, in a process of its own: ``own_loop.py FOLDER OUT [DIE_AT [WAIT_AT]]``.

It kills itself before step DIE_AT, and waits at step WAIT_AT until a newcomer knocks.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

import adamesh
from adamesh.data.ledger import Ledger, Tally, tally

SAMPLES, BATCH, EPOCHS, SEED = 50, 12, 6, 3
NEVER = 10**9


def lr_at(step: int) -> float:
    return 1e-2 / (1 + step)


def model_of(seed: int, founder: bool) -> nn.Module:
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(40)
    if founder and norm.running_mean is not None:  # a newcomer gets the others'
        norm.running_mean.fill_(0.25)
    return nn.Sequential(nn.Linear(5, 40), norm, nn.Tanh(), nn.Linear(40, 1)).double().eval()


def tell(change: object) -> None:
    sys.stderr.write(f"{change}\n")


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(SAMPLES, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return x, x.sin().sum(dim=1, keepdim=True)


def main(folder: Path, out: Path, die_at: int = NEVER, wait_at: int = NEVER) -> None:
    (x, y), model = data(), model_of(int(os.environ.get("RANK", "9")), founder="RANK" in os.environ)
    workers = adamesh.elastic(folder, tell=tell)
    optimizer = adamesh.AdamW(model.named_parameters(), lr=1.0, plan=adamesh.Plan(mesh=workers, redundancy=2))
    sampler = adamesh.ElasticSampler(SAMPLES, BATCH, optimizer, epochs=EPOCHS, seed=SEED)
    saver = adamesh.Saver(model, optimizer)
    ledger, epoch, sizes = Ledger(), -1, []
    for indices in sampler:
        step = optimizer.steps_made
        with adamesh.surviving(optimizer):
            if workers.formation.epoch != epoch:
                adamesh.broadcast_buffers(model, workers.formation.world)
                epoch = workers.formation.epoch
            if step % 8 == 0:
                try:
                    saver.save(folder / "checkpoint", step=step)
                except adamesh.CheckpointError as error:
                    tell(error)
            optimizer.param_groups[0]["lr"] = lr_at(step)
            optimizer.zero_grad()
            if step == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            deadline = time.monotonic() + 40
            while step == wait_at and not workers.restless and workers.formation.world.size < 3:
                assert time.monotonic() < deadline, "nobody came"
                time.sleep(0.01)
            if len(indices):
                (nn.functional.mse_loss(model(x[indices]), y[indices]) * sampler.weight).backward()
            optimizer.attach(json.dumps(tally(step, indices).limbs()).encode())
            optimizer.step()
        if optimizer.steps_made > step:
            sizes.append(workers.formation.world.size)
            ledger = ledger.after(sum((Tally.of_limbs(json.loads(note)) for note in optimizer.notes), Tally()))
    values = {name: value.tolist() for name, value in model.state_dict().items()}
    out.write_text(json.dumps({"values": values, "ledger": ledger.saved(), "sizes": sizes}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
