"""The command itself, in processes of its own, as a user runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import adamesh

# Steps slow enough to be interrupted, and workers that fail when told to.
_TASK = """
import os, signal, time
from adamesh.tasks.digits import Digits

class Mine(Digits):
    name = "mine"
    summary = "digits, with accidents"
    batches = 0

    def loss(self, model, batch):
        self.batches += 1
        time.sleep(float(os.environ.get("SLOW_S", "0")))
        if os.environ["RANK"] == os.environ.get("FAIL_RANK") and self.batches == 3:
            if os.environ["FAIL_BY"] != "error":
                os.kill(os.getpid(), getattr(signal, os.environ["FAIL_BY"]))
            raise ValueError("the label 11 is\\nout of range")
        return super().loss(model, batch)

del Digits
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A user's own task file, in the folder where the command runs."""
    (tmp_path / "mine.py").write_text(_TASK)
    return "mine.py"


@pytest.fixture
def environment() -> dict[str, str]:
    """Of a process that finds the adamesh that is tested, installed or not."""
    paths = [str(Path(adamesh.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> "Iterator[Callable[..., subprocess.Popen[str]]]":
    """Starts ``adamesh`` with arguments and environment variables, in an empty folder."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str, **variables: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "adamesh.cli.main", *argv]
        pipe, env = subprocess.PIPE, environment | variables
        # Whoever runs the tests in the background may have told them to ignore Ctrl-C, and they would tell others.
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def run(start: Callable[..., "subprocess.Popen[str]"]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``adamesh`` to its end: exit code, stdout, stderr."""

    def run(*argv: str, **variables: str) -> tuple[int, str, str]:
        process = start(*argv, **variables)
        out, err = process.communicate(timeout=100)
        return process.returncode, out, err

    return run
