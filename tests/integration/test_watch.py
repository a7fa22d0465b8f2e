"""``adamesh watch`` as a process of its own: what it prints, how it ends, what it does not load."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.unit.report.folders import end, make_run


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run")


def test_the_printed_link_opens_and_ctrl_c_ends_it_without_a_word(folder, start):
    process = start("watch", str(folder), DISPLAY="", WAYLAND_DISPLAY="")
    line = process.stdout.readline()
    assert line.startswith("open http://127.0.0.1:")
    link = line.split()[1]
    with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(link, timeout=10) as answer:
        assert "40 of 100" in answer.read().decode()
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(link.partition("?")[0], timeout=10)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


def test_a_terminal_view_of_a_run_that_has_ended_is_one_look(folder, run):
    end(folder, 40)
    code, out, err = run("watch", str(folder), "--terminal")
    assert (code, err) == (0, "")
    assert "finished" in out
    assert "test loss" in out


def test_watching_a_run_does_not_load_torch(folder):
    end(folder, 40)
    program = f"""
import sys
from adamesh.cli.main import main
main(["watch", {str(folder)!r}, "--terminal"])
import adamesh.report.serve
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=False).returncode == 0
