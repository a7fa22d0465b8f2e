"""What is read out of the notes of a rehearsed run's workers."""

import json
import os

from adamesh.drill.notes import REGROUP, Note, Notes, Worker
from adamesh.train.rehearsal import MADE, RESTED, Identity, Rehearsal

ME = Identity(pid=1, rank=0, joined=False, name="0-a")


def worker(*notes: tuple[float, int, str]) -> Worker:
    return Worker(ME, [Note(*note) for note in notes])


def test_a_step_that_is_begun_again_before_it_was_made_is_not_lost():
    assert worker((0, 4, "step"), (1, 5, MADE), (2, 5, "step"), (3, 5, REGROUP), (4, 5, "step")).steps_lost == 0


def test_steps_that_are_made_again_are_lost():
    assert worker((0, 4, "step"), (1, 5, MADE), (2, 2, "step"), (3, 3, MADE), (4, 3, "step")).steps_lost == 3


def test_a_stall_is_the_longest_wait_in_an_interval_without_what_was_rest():
    notes = worker((0, 1, MADE), (1, 2, MADE), (4, 3, MADE), (9, 3, RESTED), (10, 4, MADE), (30, 5, MADE))
    assert notes.stall_s(0.0, 20.0) == 3


def test_what_a_rehearsed_worker_notes_is_read_by_whoever_drills_it(tmp_path):
    rehearsal, notes = Rehearsal(tmp_path, "2-b", {"RANK": "2"}), Notes(tmp_path)
    rehearsal.note(7, "step")
    notes.read()
    rehearsal.note(8, MADE)
    with (tmp_path / f"{os.getpid()}.notes").open("a") as file:
        file.write("12.5 9 cut sh")  # a line that is being written
    notes.read()
    [found] = notes.workers.values()
    assert found.identity == Identity(os.getpid(), 2, joined=False, name="2-b")
    assert [(note.step, note.phase) for note in found.notes] == [(7, "step"), (8, MADE)]
    assert notes.training == [found]


def test_a_worker_whose_process_is_gone_does_not_train(tmp_path):
    line = json.dumps({"pid": 2**22 + 1, "rank": 0, "joined": False, "name": "0-a"})
    (tmp_path / f"{2**22 + 1}.notes").write_text(f"{line}\n1.0 1 {MADE}\n")
    notes = Notes(tmp_path)
    notes.read()
    assert notes.training == []
