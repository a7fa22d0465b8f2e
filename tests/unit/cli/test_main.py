"""The commands: help, versions, errors of one line, exit codes."""

import importlib
import subprocess
import sys

import pytest

from adamesh.cli.main import COMMANDS, main


def complaint(capsys, *argv):
    """What a wrong command line is answered with: one line, and exit code 2."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("adamesh: ")
    assert err.count("\n") == 1
    return err


def test_help_names_every_command_and_every_command_exists(capsys):
    assert main([]) == main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, sentence in COMMANDS.items():
        assert name in out
        assert sentence in out
        assert callable(importlib.import_module(f"adamesh.cli.{name.replace('-', '_')}").run)


@pytest.mark.parametrize("argv", [[name] for name in COMMANDS] + [["bench", "step"]], ids=" ".join)
def test_help_of_a_command_says_what_it_is_called_with(argv, capsys):
    assert main([*argv, "--help"]) == 0
    assert f"adamesh {' '.join(argv)}" in capsys.readouterr().out


def test_help_of_train_shows_examples_and_every_setting(capsys):
    main(["train", "--help"])
    out = capsys.readouterr().out
    assert "adamesh train my_task.py" in out
    for option in ("--nproc", "--out", "--optim.lr", "--plan.max-grad-norm", "--schedule.kind"):
        assert option in out
    assert "(default: 2)" in out


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["check", "--help"], ["--version"]])
def test_help_does_not_wait_for_torch(argv):
    program = f"import sys; from adamesh.cli.main import main; main({argv}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_version_names_adamesh_torch_and_python(capsys):
    assert main(["--version"]) == 0
    out = capsys.readouterr().out
    assert "adamesh" in out
    assert "torch 2" in out
    assert "Python 3" in out


def test_tasks_lists_the_built_in_ones_with_their_defaults(capsys):
    assert main(["tasks"]) == 0
    out = capsys.readouterr().out
    assert "digits" in out
    assert "regression" in out
    assert "0.003" in out


WRONG = {
    "a misspelt command": (["trian"], ["trian", "did you mean train"]),
    "a misspelt option": (["train", "--stesp", "3"], ["--stesp", "nearest", "--steps"]),
    "an option without its section": (["train", "--lr", "1"], ["--lr", "--optim.lr"]),
    "a misspelt option of a section": (["train", "--plan.max-norm=1"], ["--plan.max-norm", "--plan.max-grad-norm"]),
    "a word for a number": (["train", "--steps", "ten"], ["--steps ten", "whole number", "--help"]),
    "a fraction of a worker": (["train", "--nproc=2.5"], ["--nproc 2.5", "whole number"]),
    "a value out of range": (["train", "--optim.lr", "-1"], ["optim.lr = -1.0", "at least 0"]),
    "no such choice": (["train", "--optim.rule", "adamx"], ["--optim.rule adamx", "adamw, adam"]),
    "no value": (["train", "--optim.lr"], ["--optim.lr", "followed by a number"]),
    "half a pair": (["train", "--optim.betas", "0.9"], ["--optim.betas", "2 values"]),
    "a stray word": (["train", "digits", "fast"], ["'fast'", "no option"]),
    "steps and epochs": (["train", "--steps", "3", "--epochs", "4"], ["steps = 3", "epochs = 4", "not both"]),
    "two tasks": (["train", "digits", "--task", "regression"], ["digits", "--task regression"]),
    "an unknown task": (["train", "digit"], ["'digit'", "did you mean 'digits'"]),
    "no such task file": (["train", "none.py"], ["none.py", "no such file"]),
    "no such configuration": (["train", "none.toml"], ["none.toml", "No such file"]),
    "a folder for a task": (["train", "."], ["adamesh resume ."]),
    "a batch that cannot be cut": (["train", "--batch-size", "2", "--nproc", "3"], ["batch_size = 2", "3 workers"]),
    "islands that do not fit": (["train", "--plan.islands", "2", "--nproc", "3"], ["plan.islands = 2", "divide"]),
    "unsound together": (["train", "--plan.sync", "diloco-8-delay-8"], ["h=8, delay=8", "delay=7"]),
    "a codec for whole parameters": (
        ["train", "--plan.sync", "every-8", "--plan.across", "int8"],
        ["EveryH(h=8", "across"],
    ),
    "checking what differs": (["check", "--plan.sync", "diloco-8"], ["diloco-8", "nothing to compare"]),
    "resuming nothing": (["resume"], ["DIR", "missing"]),
    "resuming what is no run": (["resume", "none"], ["none", "holds no run"]),
    "a misspelt benchmark": (["bench", "stp"], ["stp", "did you mean step"]),
    "an option where there are none": (["tasks", "--all"], ["--all", "--help"]),
}


@pytest.mark.parametrize(("argv", "fragments"), WRONG.values(), ids=WRONG)
def test_one_line_says_what_is_wrong_and_what_to_do(argv, fragments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = complaint(capsys, *argv)
    for fragment in fragments:
        assert fragment in line
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_in_a_file_is_named_with_the_file_and_the_nearest(capsys, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[optim]\nlearning_rate = 1.0\n")
    line = complaint(capsys, "train", str(file))
    for fragment in ("run.toml", "optim.learning_rate", "nearest"):
        assert fragment in line


def test_a_folder_that_cannot_be_written_is_named(capsys, tmp_path):
    (tmp_path / "file").touch()
    line = complaint(capsys, "train", "--out", str(tmp_path / "file" / "run"))
    for fragment in ("file/run", "cannot be written", "--out"):
        assert fragment in line
