"""What is read of a run's folder, whole or broken."""

import json
import os

import pytest

from adamesh.cli.main import main
from adamesh.doctor.record import read_record
from adamesh.errors import ConfigurationError
from tests.unit.doctor.runs import diagnosed, leave, line

TRACE = """\
Traceback (most recent call last):
  File "process.py", line 45, in run_here
    return main(arguments)
{error}
in step 31
"""


def log(folder, start, worker, error):
    place = folder / "logs" / str(start)
    place.mkdir(parents=True, exist_ok=True)
    (place / f"worker{worker}.log").write_text("W0101 a warning: of torch\n" + TRACE.format(error=error))


def test_what_can_be_read_of_a_broken_file_is_used_and_the_rest_is_named(tmp_path):
    run = leave(tmp_path / "run")
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    lines[9], lines[19], lines[29] = "\x00\x00\x00", '{"step": "ten"}', '{"step": 30, "loss": [1]}'
    metrics.write_text("\n".join(lines) + "\n" + lines[0][:25])
    record = read_record(run)
    assert len(record.lines) == 77
    assert record.unreadable == ["metrics.jsonl: 4 of 81 lines left out (lines 10, 20, 30, 81)"]
    assert diagnosed(run).healthy


def test_a_last_line_that_is_being_written_is_told_as_that(tmp_path):
    run = leave(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 81, "lo')
    record = read_record(run)
    assert record.state == "unfinished"
    assert record.unreadable == [
        "metrics.jsonl: 1 of 81 lines left out (line 81, which is still being written or was cut short)"
    ]


def test_a_folder_with_metrics_only_is_enough_and_says_what_is_not_known(tmp_path):
    run = leave(tmp_path / "run", config=None)
    record = read_record(run)
    (complaint,) = record.unreadable
    assert "config.toml: cannot be read (No such file" in complaint
    assert diagnosed(run).healthy


def test_settings_and_summary_that_are_damaged_are_named_and_metrics_used(tmp_path):
    run = leave(tmp_path / "run", lambda line: {"loss": 2.3 + line["step"]}, summary={})
    (run / "config.toml").write_text("steps = many")
    (run / "summary.json").write_text('{"stopped": ')
    record = read_record(run)
    assert [line.partition(":")[0].rpartition("/")[2] for line in record.unreadable] == ["config.toml", "summary.json"]
    findings = diagnosed(run).findings
    assert next(iter(findings)) == "divergence"
    assert {advice.command for advice in findings["divergence"].advice} == {None}  # nobody knows what to train


def test_a_run_of_few_steps_is_not_called_ill_and_says_why_it_is_unknown(tmp_path):
    diagnosis = diagnosed(leave(tmp_path / "run", steps=5))
    assert diagnosis.healthy
    assert {"divergence", "stalled", "explosion"} <= set(diagnosis.unknown)


@pytest.mark.parametrize("key", [key for key in line(60) if key != "step"])
def test_a_key_that_is_missing_or_null_in_some_lines_is_no_error_and_no_illness(tmp_path, key):
    run = leave(tmp_path / "run")
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    for number, one in enumerate(lines):
        if number % 3 == 0 and key != "loss":
            one.pop(key, None)
        elif number % 3 == 1 and key in one and key not in ("loss", "grad_norm"):
            one[key] = None
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert diagnosed(run).healthy


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "none", tmp_path / "file", tmp_path):
        with pytest.raises(ConfigurationError):
            read_record(folder)
        assert main(["doctor", str(folder)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)


def test_why_it_failed_is_taken_from_the_last_start_and_from_the_worker_that_was_the_cause(tmp_path):
    run = leave(tmp_path / "run")
    log(run, 1, 0, "ValueError: of the first start")
    log(run, 2, 0, "adamesh.errors.PeerLost: worker 1 is gone")
    log(run, 2, 1, "KeyError: 'label'")
    record = read_record(run)
    assert record.state == "failed"
    assert record.last_words is not None
    assert (record.last_words.kind, record.last_words.message, record.last_words.step) == ("KeyError", "'label'", 31)
    assert list(diagnosed(run).findings) == ["failure"]


def test_what_a_worker_said_before_the_run_ended_well_is_no_failure(tmp_path):
    run = leave(tmp_path / "run")
    log(run, 1, 0, "ValueError: of a worker that came again")
    leave(run, summary={})
    later = os.stat(run / "summary.json").st_mtime + 10
    os.utime(run / "summary.json", (later, later))
    assert read_record(run).state == "finished"
    assert diagnosed(run).healthy


def test_nothing_in_the_folder_is_changed(tmp_path, capsys):
    run = leave(tmp_path / "run", summary={})
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.iterdir()}
    assert main(["doctor", str(run)]) == main(["doctor", str(run), "--json"]) == 0
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.iterdir()}


def test_text_and_json_say_the_same(tmp_path, capsys):
    run = leave(tmp_path / "run", lambda line: {"data_wait_s": 0.05}, summary={})
    assert main(["doctor", str(run)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert main(["doctor", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] is False
    assert (told["state"], told["steps"], told["workers"]) == ("finished", 80, 2)
    (found,) = told["findings"]
    commands = [advice["command"] for advice in found["advice"] if advice["command"] is not None]
    assert commands
    for part in (found["symptom"], found["saw"], *found["evidence"], *commands):
        assert part in text
