"""``python -m tests.checkpoint.killed_trainee FOLDER KILLS``: trains two workers that save all the time; killed.

Every training happens in a fork that is killed with SIGKILL at a random moment. What it left in
``FOLDER/NUMBER`` is for whoever started this to look at; the next training goes on in a copy of it.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from tests.checkpoint.faulty_disk import FaultyDisk
from tests.checkpoint.trainee import ALL_IN_ONE_BUCKET, Recipe, Trainee

LONGEST_S = 1.0
COARSE = Recipe(bucket_mb=ALL_IN_ONE_BUCKET)


def train(folder: Path, begun: int) -> None:
    """From the first step on, with a save behind each; says so to a pipe when the first one is about to begin."""

    def live(mesh: Mesh) -> None:
        trainee = Trainee(mesh, COARSE)
        saver = adamesh.Saver(trainee.model, trainee.optimizer, FaultyDisk(None))
        os.write(begun, b".")
        for step in range(1_000_000):
            trainee.train(range(step, step + 1))
            saver.save(folder, steps=step + 1)

    ThreadWorld(1, 2).run(live)


def main(folder: Path, kills: int) -> None:
    torch.set_num_threads(1)
    ThreadWorld(1, 2).run(lambda mesh: Trainee(mesh, COARSE).train(range(1)))  # what is slow once, before the forks
    chance = random.Random(0)
    for number in range(kills):
        here = folder / str(number)
        if number % 4:
            shutil.copytree(folder / str(number - 1), here)
        else:
            here.mkdir()
        hear, begun = os.pipe()
        child = os.fork()
        if child == 0:
            train(here, begun)
        os.read(hear, 1)
        time.sleep(chance.uniform(0.0, LONGEST_S))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(hear)
        os.close(begun)
        assert os.WIFSIGNALED(status), number
        assert os.WTERMSIG(status) == signal.SIGKILL, number


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
