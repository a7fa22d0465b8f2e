import json

from adamesh.train.events import Event, append_event, read_events
from adamesh.train.metrics import MetricsFile


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(path, last_step, steps):
    file = MetricsFile(path, last_step)
    for step in steps:
        file.write({"step": step, "loss": 1.0 / step})
    file.close()


def test_the_curve_of_a_resumed_run_joins_without_gap_or_repetition(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path, 0, range(1, 8))
    written(path, 5, range(6, 10))
    assert [line["step"] for line in lines(path)] == list(range(1, 10))


def test_evaluations_at_the_checkpoint_s_own_step_stay(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4, "loss": 1}\n{"step": 4, "eval_loss": 2}\n{"step": 5, "loss": 1}\n')
    written(path, 4, [])
    assert lines(path) == [{"step": 4, "loss": 1}, {"step": 4, "eval_loss": 2}]


def test_a_line_that_a_crash_cut_short_goes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1}\n{"step": 2, "lo')
    written(path, 2, [3])
    assert [line["step"] for line in lines(path)] == [1, 3]


def test_a_new_run_starts_an_empty_curve(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path, 0, [1, 2])
    written(path, 0, [])
    assert lines(path) == []


def test_every_line_is_on_disk_at_once_and_strict_json(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.write({"step": 1, "loss": float("nan"), "more": [float("inf"), 1.5]})
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None, "more": [None, 1.5]}]
    file.close()


def test_events_outlive_the_start_that_wrote_them(tmp_path):
    path = tmp_path / "events.jsonl"
    assert read_events(path) == []
    events = [Event(3, "interrupted", "Ctrl-C"), Event(3, "resumed", "with 2 workers")]
    for event in events:
        append_event(path, event)
    with path.open("a") as file:
        file.write('{"step": 4, "ki')
    assert read_events(path) == events
