"""What each measuring worker executes: ``python -m adamesh.train.process adamesh.cost.measuring FOLDER``.

The workers take a plan's steps at the same time, each by itself, so that what they share (cores, memory, caches) is
shared as in training. Then they find out what a message costs on this machine; and where they are as many as are
planned for, they train together for a while, each plan in its turn.
"""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from adamesh.comm.base import Communicator
from adamesh.comm.process_group import process_mesh
from adamesh.cost.calibrate import Course
from adamesh.cost.case import open_case
from adamesh.cost.links import Link
from adamesh.cost.rehearse import Stage
from adamesh.train.config import load_config
from adamesh.train.laps import Lapper, endless, in_turns
from adamesh.train.run import Run
from adamesh.train.settings import PlanSettings
from adamesh.train.workers import GroupWorkers

__all__ = ["main"]

_SWAPS = 100
_SIDE = 256
_BULK = 8 << 20
_BULKS = 10
_TURNS = 4
_STEPS = 16
"""Of a turn, at least."""
_ENOUGH_S = 60.0
"""Of turns: slow models have fewer."""


def main(arguments: Sequence[str]) -> int:
    """Measure; the first worker leaves what was found in the folder."""
    folder = Path(arguments[0])
    plain = json.loads((folder / "course.json").read_text(encoding="utf-8"))
    course = Course(**{**plain, "plans": tuple(plain["plans"])})
    config = load_config(folder / "config.toml")
    case, cpu = open_case(config, course.world), torch.device("cpu")
    workers = GroupWorkers.join(cpu, None)
    try:
        batches = case.micro_batches()
        stages = [Stage(case, PlanSettings(**plan), batches) for plan in course.plans]
        for number in range(course.rounds):
            # In turns, and in both directions, so that what else the machine does falls on all plans alike.
            for stage in stages if number % 2 else stages[::-1]:
                workers.meet()
                stage.round()
        rehearsals = [stage.seen() for stage in stages]
        loopback = None
        if workers.size > 1:
            loopback = _loopback(process_mesh(None, cpu, None).world)
        together_s: list[list[float]] = [[] for _ in course.plans]
        if workers.size == course.world > 1:
            run = Run(endless(config), case.task, case.splits, folder, workers, cpu)
            lappers = [Lapper(run, PlanSettings(**plan)) for plan in course.plans]
            in_turns(lappers, _TURNS, _STEPS, workers, _ENOUGH_S)
            together_s = [lapper.step_s for lapper in lappers]
            for lapper in lappers:
                lapper.close()
        if workers.is_first:
            found = {
                "loopback": None if loopback is None else asdict(loopback),
                "together_s": together_s,
                "rehearsals": [asdict(rehearsed) for rehearsed in rehearsals],
            }
            (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
        workers.meet()
    finally:
        workers.part()
    return 0


def _loopback(comm: Communicator) -> Link:
    """Latency of short messages, then bandwidth and a processor's time for bytes."""
    swap_s = _swap_s(comm)
    post_s = []
    send = torch.zeros(_BULK * comm.size, dtype=torch.uint8)
    recv = torch.zeros_like(send)
    bulks, cpu_s = [], time.process_time()
    for _ in range(_BULKS):
        start_s = time.perf_counter()
        work = comm.all_to_all(recv, send)
        post_s.append((time.perf_counter() - start_s) / (comm.size - 1))
        work.wait()
        bulks.append(time.perf_counter() - start_s)
    sent = _BULK * (comm.size - 1)
    message_s = min(statistics.median(post_s), swap_s / 2)
    return Link(
        "loopback",
        bytes_per_s=sent / statistics.median(bulks),
        latency_s=swap_s - message_s,
        message_s=message_s,
        cpu_s_per_byte=(time.process_time() - cpu_s) / (_BULKS * sent),
        is_loopback=True,
    )


def _swap_s(comm: Communicator) -> float:
    """Of a short message between steps of work, as a step's own are: who was asleep has to wake up.

    Who comes last waits for nobody; its time is the message's.
    """
    matrix = torch.ones(_SIDE, _SIDE)
    message, took = bytes(256), np.empty(_SWAPS)
    for number in range(_SWAPS):
        torch.mm(matrix, matrix)
        start_s = time.perf_counter()
        comm.swap(message)
        took[number] = time.perf_counter() - start_s
    everybodys = [np.frombuffer(answer) for answer in comm.exchange(took.tobytes(), "latency")]
    return float(np.median(np.min(everybodys, axis=0)))
