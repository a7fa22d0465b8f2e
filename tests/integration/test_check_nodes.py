"""``adamesh check --nodes`` on machines that here are network namespaces: whatever is wrong is named, in time."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from adamesh.bench.hosts import Hosts

WAIT_S, PAIR_S = 40, 20


def test_processes_of_one_machine_rehearse_it(run, tmp_path):
    code, out, err = run("check", "--nodes", "--nproc", "2", "--json", "--out", "here")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["verdict"], len(report["cards"]), len(report["legs"])) == ("passed", 2, 2)
    assert json.loads((tmp_path / "here" / "nodes.json").read_text()) == report


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--nodes", "--nnodes", "2"], "--rdzv-endpoint HOST:PORT"),
        (["--nodes", "--nnodes", "2", "--rdzv-endpoint", "h:1", "--node-rank", "2"], "must be from 0 to 1"),
        (["--nodes", "--nproc", "1"], "nobody to talk to"),
        (["--nnodes", "2"], "add --nodes"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words, capsys):
    from adamesh.cli.main import main

    assert main(["check", *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2")
@pytest.mark.parametrize("num", [3, pytest.param(4, marks=pytest.mark.soak)])
def test_a_slow_link_a_blocked_pair_and_a_missing_node_are_named(environment, tmp_path, num):
    """2 may send 10 Mbit/s only, 1 has no route to 2, and 3, if there should be one, is never started."""
    with Hosts(num, None) as hosts:
        slow = ["tc", "qdisc", "add", "dev", hosts.interface, "root", "tbf", "rate", "10mbit"]
        subprocess.run(hosts.command(2, [*slow, "burst", "64kb", "latency", "50ms"]), check=True)
        subprocess.run(hosts.command(1, ["ip", "route", "add", "blackhole", f"{hosts.address(2)}/32"]), check=True)
        check = [sys.executable, "-m", "adamesh.cli.main", "check", "--nodes", "--nnodes", str(num)]
        check += ["--rdzv-endpoint", f"{hosts.address(0)}:29400", "--wait-s", str(WAIT_S), "--out", str(tmp_path)]
        began = time.monotonic()
        nodes = [
            subprocess.Popen(
                hosts.command(rank, [*check, "--node-rank", str(rank)]),
                env=environment | {"GLOO_SOCKET_IFNAME": hosts.interface},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(3)
        ]
        try:
            out, *_ = [node.communicate(timeout=100)[0] for node in nodes]
        finally:
            for node in nodes:
                node.kill()
    assert [node.returncode for node in nodes] == [1, 1, 1]
    report = json.loads((tmp_path / "nodes.json").read_text())
    assert report["seconds"] < WAIT_S + PAIR_S
    assert time.monotonic() - began < 100
    *missing, blocked, limited = (finding["text"] for finding in report["findings"])
    assert [text.partition(" s:")[0] for text in missing] == [f"node 3 did not show up within {WAIT_S}"] * (num - 3)
    assert "(10.213.7.2) cannot reach" in blocked.replace(f"{report['cards'][1]['host']}, ", "")
    assert "10.213.7.3" in blocked
    assert "10.213.7.1" in limited
    assert "10.213.7.3" in limited
    [sent] = [leg["mbit"] for leg in report["legs"] if (leg["sender"], leg["receiver"]) == (2, 0)]
    assert 7 < sent < 12
    assert "would fail" in out
