"""``python -m tests.checkpoint.killed_saver FOLDER``: save alone, each time killed at another write boundary.

Each save happens in a fork, over a copy of an older checkpoint, in ``FOLDER/killed-NUMBER-MOMENT[-replaced]``.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import torch

from adamesh.comm.base import Mesh
from adamesh.comm.local import LocalCommunicator
from tests.checkpoint.faulty_disk import BEFORE, MOMENTS, FaultyDisk, kill_process
from tests.checkpoint.trainee import ALL_IN_ONE_BUCKET, Recipe, Trainee


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    alone = LocalCommunicator()
    trainee = Trainee(Mesh(alone, alone, alone), Recipe(bucket_mb=ALL_IN_ONE_BUCKET))
    trainee.train(range(1)).save(folder / "old").train(range(1, 2))
    counting = FaultyDisk(None)
    shutil.copytree(folder / "old", folder / "counted")
    trainee.save(folder / "counted", disk=counting)
    for number, name in enumerate(counting.operations):
        for moment in MOMENTS:
            done = counting.operations[:number] + ([] if moment == BEFORE else [name])
            target = folder / f"killed-{number}-{moment}{'-replaced' if 'replace' in done else ''}"
            shutil.copytree(folder / "old", target)
            child = os.fork()
            if child == 0:
                trainee.save(target, disk=FaultyDisk(number, moment, kill_process))
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status), (number, moment)
            assert os.WTERMSIG(status) == signal.SIGKILL, (number, moment)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
