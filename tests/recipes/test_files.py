"""The recipes of docs/multi-machine.md are what they claim to be, as far as that can be seen without a cluster."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
SCRIPTS = sorted([*RECIPES.glob("*.sh"), *RECIPES.glob("*.sbatch")])
PAGE = RECIPES.parent / "multi-machine.md"


def begin(folder: Path, node: str, adamesh: str = 'echo "$@" >> "$RUN.calls"') -> subprocess.Popen[bytes]:
    """Run worker.sh with an ``adamesh`` that only notes how it was called."""
    tool = folder / "bin" / "adamesh"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f"#!/bin/sh\n{adamesh}\n")
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}", "RUN": str(folder / "run")}
    environment |= {"NODES": "2", "NODE": node, "HEAD": "host0:29400", "NPROC": "3"}
    return subprocess.Popen(["sh", str(RECIPES / "worker.sh"), "digits", "--elastic", "1:8"], env=environment)


def calls(folder: Path) -> list[str]:
    file = folder / "run.calls"
    return file.read_text().splitlines() if file.exists() else []


def leave(folder: Path, name: str, text: str) -> None:
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / name).write_text(text)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_shell(script: Path) -> None:
    shell = "bash" if script.suffix == ".sbatch" else "sh"
    assert subprocess.run([shell, "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize("manifest", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_manifests_are_yaml_of_named_objects_that_mount_what_they_use(manifest: Path) -> None:
    yaml = pytest.importorskip("yaml")
    for document in yaml.safe_load_all(manifest.read_text()):
        assert {"apiVersion", "kind", "metadata", "spec"} <= document.keys()
        assert document["metadata"]["name"]
    assert "worker.sh" in manifest.read_text()


def test_every_recipe_is_told_of() -> None:
    page = PAGE.read_text()
    for recipe in RECIPES.iterdir():
        assert f"](recipes/{recipe.name})" in page


def test_a_machine_begins_the_run_once_and_joins_it_when_it_is_started_again(tmp_path: Path) -> None:
    assert begin(tmp_path, "1").wait() == 0
    leave(tmp_path, "members.json", '{"token": "t", "epoch": 3, "addresses": [["10.0.0.5", 4000]]}')
    assert begin(tmp_path, "1").wait() == 0
    run = tmp_path / "run"
    founding = "--nproc 3 --nnodes 2 --node-rank 1 --rdzv-endpoint host0:29400"
    assert calls(tmp_path) == [f"train digits --elastic 1:8 --out {run} {founding}", f"join {run} --nproc 3"]


@pytest.mark.parametrize(("stopped", "called"), [("finished", []), ("interrupted", ["resume"])])
def test_machine_0_goes_on_with_a_run_that_was_interrupted_and_leaves_one_that_has_ended(
    tmp_path: Path, stopped: str, called: list[str]
) -> None:
    (tmp_path / "run.begun.0").touch()
    leave(tmp_path, "summary.json", f'{{"stopped": "{stopped}"}}')
    assert begin(tmp_path, "0").wait() == 0
    assert [call.split()[0] for call in calls(tmp_path)] == called


def test_if_nobody_is_there_any_more_machine_0_goes_on(tmp_path: Path) -> None:
    (tmp_path / "run.begun.0").touch()
    leave(tmp_path, "members.json", '{"token": "t", "epoch": 3, "addresses": [["10.0.0.5", 4000]]}')
    assert begin(tmp_path, "0", 'echo "$@" >> "$RUN.calls"; [ "$1" != join ]').wait() == 0
    assert [call.split()[0] for call in calls(tmp_path)] == ["join", "resume"]


def test_a_machine_that_is_asked_to_go_lets_its_workers_go_and_says_that_the_run_is_not_over(tmp_path: Path) -> None:
    leave(tmp_path, "members.json", '{"token": "t", "epoch": 3, "addresses": [["10.0.0.5", 4000]]}')
    gone = 'trap \'echo gone >> "$RUN.calls"; exit 0\' TERM; echo "$1" >> "$RUN.calls"; while :; do sleep 0.05; done'
    script = begin(tmp_path, "join", gone)
    while not calls(tmp_path):
        time.sleep(0.02)
    script.send_signal(signal.SIGTERM)
    assert script.wait(20) == 143
    assert calls(tmp_path) == ["join", "gone"]


def test_shellcheck_has_nothing_to_say_of_the_scripts() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    assert subprocess.run(["shellcheck", *SCRIPTS], check=False).returncode == 0
