"""What the kernel tells of a process on the same machine."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from adamesh.membership.kin import is_stopped, this_process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


@pytest.fixture
def other():
    """A process beside this one, and its number."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def named(process: subprocess.Popen) -> str:
    return this_process().rpartition(" ")[0] + f" {process.pid}"


def comes_to(process: subprocess.Popen, stopped: bool) -> bool:
    deadline = time.monotonic() + 10
    while is_stopped(named(process), this_process()) != stopped and time.monotonic() < deadline:
        time.sleep(0.01)
    return is_stopped(named(process), this_process()) == stopped


def test_who_is_stopped_is_seen_to_be_until_it_goes_on(other):
    assert not is_stopped(named(other), this_process())
    os.kill(other.pid, signal.SIGSTOP)
    assert comes_to(other, True)
    os.kill(other.pid, signal.SIGCONT)
    assert comes_to(other, False)


def test_of_other_machines_and_of_the_dead_nothing_is_known(other):
    os.kill(other.pid, signal.SIGSTOP)
    assert comes_to(other, True)
    elsewhere = f"another-boot pid:[1] {other.pid}"
    assert not any(is_stopped(name, this_process()) for name in (elsewhere, "", "nonsense", f"{elsewhere} x"))
    other.kill()
    other.wait()
    assert not is_stopped(named(other), this_process())
