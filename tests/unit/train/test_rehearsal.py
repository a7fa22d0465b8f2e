"""A worker that is told to die in a phase."""

import multiprocessing
import signal
from pathlib import Path

from adamesh.train.rehearsal import DIES, Rehearsal, order


def _work(folder: Path) -> None:
    rehearsal = Rehearsal(folder, "0-a", {"RANK": "0"})
    order(folder, multiprocessing.current_process().pid or 0, "commit", 0.0)
    rehearsal.note(3, "step")
    rehearsal.note(3, "commit")
    signal.pause()


def test_an_order_kills_a_worker_in_the_phase_it_names_and_in_no_other(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGALRM
    lines = (tmp_path / f"{process.pid}.notes").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines[1:]] == ["3 step", "3 commit", f"3 {DIES}"]
