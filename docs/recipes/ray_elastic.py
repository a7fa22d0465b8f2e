"""Workers that come and go on a Ray cluster: each is an actor of its own, so that Ray ends none because another died.

python docs/recipes/ray_elastic.py /shared/runs/first
"""

import os
import secrets
import socket
import sys
from pathlib import Path
from typing import Any

import ray
import torch
from torch import nn

import adamesh

EPOCHS, MOST_STARTS = 100, 20


def train(folder: Path) -> dict[str, float]:
    """What each worker does: a loop as in examples/elastic_loop.py, with less in it."""
    torch.manual_seed(0)  # the same data on every worker
    inputs = torch.randn(512, 16)
    targets = inputs.sum(dim=1, keepdim=True)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
    with adamesh.elastic(folder) as workers:  # an actor's process goes on afterwards: its part has to end before
        plan = adamesh.Plan(mesh=workers, redundancy=2)
        optimizer = adamesh.AdamW(model.named_parameters(), lr=1e-2, plan=plan)
        sampler = adamesh.ElasticSampler(len(inputs), batch_size=128, optimizer=optimizer, epochs=EPOCHS)
        loss = torch.zeros(())
        for indices in sampler:
            with adamesh.surviving(optimizer):
                optimizer.zero_grad()
                if len(indices):
                    loss = nn.functional.mse_loss(model(inputs[indices]), targets[indices])
                    (loss * sampler.weight).backward()
                optimizer.step()
        return {"loss": loss.item(), "steps": optimizer.steps_made, "changes": len(workers.changes)}


@ray.remote(num_cpus=1, max_restarts=0)
class Worker:
    """One worker's process, on whatever machine has room."""

    def place(self) -> tuple[str, int]:
        """Its machine's address, and a port of it that is free."""
        with socket.socket() as sock:
            sock.bind(("", 0))
            return ray.util.get_node_ip_address(), sock.getsockname()[1]

    def pid(self) -> int:
        """Of its process."""
        return os.getpid()

    def run(self, folder: Path, environment: dict[str, str]) -> dict[str, float]:
        """Train to the end of the run."""
        os.environ.update(environment, ADAMESH_HOST=ray.util.get_node_ip_address())
        return train(folder)


def follow(folder: Path, founders: list[Any]) -> list[dict[str, float]]:
    """Let actors train together, and others join for those that die; returns what those say that come to the end."""
    address, port = ray.get(founders[0].place.remote())
    token = secrets.token_hex(16)
    base = {"ADAMESH_TOKEN": token, "MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(len(founders))}
    waiting = {worker.run.remote(folder, {**base, "RANK": str(n)}): worker for n, worker in enumerate(founders)}
    ends: list[dict[str, float]] = []
    starts = 0
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        del waiting[done]
        try:
            ends.append(ray.get(done))
        except ray.exceptions.RayTaskError:  # an error of its own: that of who came too late does not matter
            if not ends:
                raise
        except ray.exceptions.RayActorError:  # it died
            if not waiting or ends:
                continue
            starts += 1
            if starts > MOST_STARTS:
                raise
            worker = Worker.remote()
            waiting[worker.run.remote(folder, {"ADAMESH_TOKEN": token, "ADAMESH_JOIN": "1"})] = worker
    return ends


if __name__ == "__main__":
    ray.init()
    print(follow(Path(sys.argv[1]).resolve(), [Worker.remote() for _ in range(2)]))
