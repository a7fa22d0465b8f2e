"""Training over a link between two hosts, in a tiny form."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from adamesh.bench.hosts import Hosts
from adamesh.bench.link import standings
from adamesh.bench.link_worker import Course, Curve
from adamesh.bench.options import LinkOptions
from adamesh.errors import ConfigurationError

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None,
    reason="network namespaces need root and iproute2",
)


CONTENDERS = ["ddp", "ddp-bf16", "ddp-powersgd", "adamesh:int4", "adamesh:diloco-4/int4"]


def namespaces(pid):
    """How many a process has made; others may make theirs at the same time."""
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    return listed.count(f"adamesh-{pid}-")


@needs_root
@pytest.mark.parametrize("num", [2, 3])
def test_hosts_reach_each_other_at_the_links_rate_and_are_gone_afterwards(num):
    with Hosts(num, mbit=20) as hosts:
        limits = subprocess.run(
            hosts.command(num - 1, ["tc", "qdisc", "show", "dev", hosts.interface]),
            check=True,
            capture_output=True,
            text=True,
        )
        assert "tbf" in limits.stdout
        assert "20Mbit" in limits.stdout
        for host in range(num):
            addresses = subprocess.run(
                hosts.command(host, ["ip", "-o", "addr"]), check=True, capture_output=True, text=True
            )
            assert hosts.address(host) in addresses.stdout
    assert namespaces(os.getpid()) == 0


@needs_root
def test_hosts_are_gone_also_after_an_error():
    with pytest.raises(ZeroDivisionError), Hosts(2, mbit=None):
        raise ZeroDivisionError
    assert namespaces(os.getpid()) == 0


def test_without_root_there_is_one_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: f"/sbin/{name}")
    with pytest.raises(ConfigurationError, match=r"only be made by root.*sudo"):
        Hosts(2, mbit=100)


@needs_root
def test_a_race_over_a_link_leaves_a_table_and_counts_what_left_the_host(run, tmp_path):
    arguments = ["--tiny", "--steps", "5", "--most-times", "1", "--contenders", *CONTENDERS]
    code, out, err = run("bench", "link", *arguments, "--out", "race")
    assert (code, err) == (0, "")
    assert "adamesh:int4" in out
    found = json.loads((tmp_path / "race" / "link.json").read_text())["contenders"]
    assert found["adamesh:int4"]["bytes_per_step"] < 0.5 * found["ddp"]["bytes_per_step"]
    assert found["adamesh:diloco-4/int4"]["bytes_per_step"] < 0.5 * found["adamesh:int4"]["bytes_per_step"]
    assert found["adamesh:diloco-4/int4"]["waited_s"] > 0
    assert found["ddp"]["loss_equal_steps"] < found["ddp"]["curve"]["eval_losses"][0]
    assert str(tmp_path) not in (tmp_path / "race" / "link.json").read_text()


@needs_root
def test_hosts_are_removed_when_the_command_is_told_to_end():
    script = "from adamesh.bench.hosts import Hosts\nwith Hosts(2, mbit=None): print('made', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        assert namespaces(process.pid) == 2
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert namespaces(process.pid) == 0


def test_standings_are_read_at_equal_steps_equal_time_and_equal_loss():
    slow = Curve([1.0, 2.0, 3.0, 4.0], [], [0, 2, 4], [9.0, 7.0, 5.0], bytes_sent=400)
    fast = Curve([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], [], [0, 2, 4, 6], [9.0, 7.5, 5.5, 4.0], bytes_sent=60)
    course = Course(("slow", "fast"), 4, 1, 8, 2, tiny=True, most_steps=6)
    found = standings(course, [{"slow": slow, "fast": fast}] * 2)
    assert (found["slow"].step_s, found["fast"].step_s) == (1.0, 0.5)
    assert (found["slow"].samples_per_s, found["fast"].samples_per_s) == (2.0, 4.0)
    assert (found["slow"].bytes_per_step, found["fast"].bytes_per_step) == (100, 10)
    assert (found["fast"].loss_equal_steps, found["fast"].loss_equal_time) == (5.5, 4.0)
    assert (found["slow"].to_first_loss_s, found["fast"].to_first_loss_s) == (4.0, 3.0)


@pytest.mark.parametrize("wrong", [{"mbit": 0.0}, {"hosts": 1}, {"steps": 2}, {"contenders": ()}])
def test_what_makes_no_race_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        LinkOptions(**wrong)
