"""The benchmark in a tiny form: it runs, and its result holds what it promises."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adamesh.bench.measure import turns
from adamesh.bench.options import ContenderName, StepOptions
from adamesh.bench.summary import interval_of_median, quartiles
from adamesh.errors import ConfigurationError

ALL: tuple[ContenderName, ...] = ("adamesh", "ddp", "zero", "fsdp2", "fsdp2-reshard", "floor")


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[dict, str]:
    """All contenders on a tiny transformer: the JSON, and what was printed."""
    folder = tmp_path_factory.mktemp("bench")
    options = ["--models", "transformer", "--contenders", *ALL, "--rounds", "2", "--no-memory"]
    return bench(folder, *options), (folder / "printed.txt").read_text()


def bench(folder: Path, *options: str) -> dict:
    """``adamesh bench step`` in a tiny form; its JSON."""
    command = [sys.executable, "-m", "adamesh.cli.main", "bench", "step", "--tiny", "--out", str(folder)]
    command += ["--warmup", "0", "--steps", "1", *options]
    with (folder / "printed.txt").open("w") as printed:
        subprocess.run(command, check=True, stdout=printed, env={**os.environ, "COLUMNS": "80"})
    return json.loads((folder / "step.json").read_text())


def test_every_contender_is_in_the_table(measured):
    _, printed = measured
    for name in ALL:
        assert any(line.split()[:1] == [name] for line in printed.splitlines()), printed


def test_the_json_has_settings_machine_medians_and_every_round(measured):
    plain, _ = measured
    assert plain["bench"] == "step"
    assert plain["options"]["nproc"] == 2
    assert {"cores", "torch", "processor", "load_before"} <= plain["machine"].keys()
    model = plain["models"]["transformer"]
    assert model["param_count"] > 0
    assert model["foreign_cores"] >= 0
    assert set(ALL) | {"local", "local-share"} == model["contenders"].keys()
    for name, contender in model["contenders"].items():
        assert 0 < contender["step_s"]["low"] <= contender["step_s"]["median"] <= contender["step_s"]["high"]
        assert contender["ratio"].keys() == {"median", "low", "high"}
        assert {"communication_s", "waited_s", "peak_bytes", "state_bytes", "bytes_sent"} <= contender.keys()
        assert [len(rounds) for rounds in model["rounds_step_s"][name]] == [2, 2]  # workers, rounds


def test_no_path_of_this_machine_is_in_the_json(measured, tmp_path_factory):
    plain, _ = measured
    assert str(tmp_path_factory.getbasetemp()) not in json.dumps(plain)


def test_all_contenders_end_where_ddp_ends(measured):
    plain, printed = measured
    contenders = plain["models"]["transformer"]["contenders"]
    deviations = {name: contender["relative_deviation"] for name, contender in contenders.items()}
    assert {name for name, value in deviations.items() if value is None} == {"floor", "local", "local-share"}
    assert all(value < 1e-3 for value in deviations.values() if value is not None), deviations
    assert "DIFFERS" not in printed.split("distance of final parameters")[1].splitlines()[0]


def test_two_workers_halve_the_state_and_nobody_sends_less_than_ddp(measured):
    plain, _ = measured
    model = plain["models"]["transformer"]
    contenders = model["contenders"]
    whole = contenders["ddp"]["state_bytes"]
    assert whole >= 8 * model["param_count"]
    for name in ("adamesh", "zero", "fsdp2"):
        assert 0.4 * whole < contenders[name]["state_bytes"] < 0.7 * whole, name
        assert contenders[name]["bytes_sent"] >= contenders["ddp"]["bytes_sent"], name
    assert contenders["floor"]["state_bytes"] == contenders["floor"]["bytes_sent"] == 0


@pytest.mark.soak
def test_memory_is_measured_in_processes_of_their_own(tmp_path):
    plain = bench(tmp_path, "--models", "mlp", "--contenders", "ddp", "--nproc", "1", "--rounds", "1")
    assert plain["models"]["mlp"]["contenders"]["ddp"]["peak_bytes"] is not None
    assert (tmp_path / "mlp-memory-ddp").is_dir()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"contenders": ("ddp", "horovod")}, "horovod"),
        ({"models": ()}, "--models"),
        ({"models": ("mlp", "mlp")}, "once"),
        ({"rounds": 0}, "--rounds 0"),
    ],
)
def test_a_wrong_option_is_named(settings, named):
    with pytest.raises(ConfigurationError, match=named):
        StepOptions(**settings)


def test_everyone_comes_first_equally_often_and_behind_different_ones():
    names = ["a", "b", "c", "d", "e"]
    rounds = [turns(names, number) for number in range(20)]
    assert all(sorted(order) == names for order in rounds)
    predecessors = {order[order.index("c") - 1] for order in rounds if order[0] != "c"}
    assert predecessors == {"b", "d"}
    firsts = [order[0] for order in rounds]
    assert {firsts.count(name) for name in names} == {4}


def test_the_interval_of_a_median_covers_it_95_times_in_100():
    # P(Binomial(20, 1/2) <= 5) = 0.0207: the 6th from either end; Conover's table agrees.
    spread = interval_of_median([float(value) for value in range(1, 21)])
    assert (spread.low, spread.median, spread.high) == (6.0, 10.5, 15.0)
    covered = 1 - 2 * sum(math.comb(20, heads) for heads in range(6)) / 2**20
    assert covered >= 0.95


def test_few_values_have_their_range_for_an_interval():
    spread = interval_of_median([3.0, 1.0, 2.0])
    assert (spread.low, spread.median, spread.high) == (1.0, 2.0, 3.0)


def test_one_value_is_its_own_quartiles():
    spread = quartiles([0.25])
    assert (spread.low, spread.median, spread.high) == (0.25, 0.25, 0.25)
