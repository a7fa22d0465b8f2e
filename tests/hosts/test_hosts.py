"""Through every host the digits' model is trained as torch's AdamW would train it on the mean gradient."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch

from tests.hosts.traced import EXAMPLES, WORLD, Stopped, Trace, by_torch, train
from tests.tolerances import DIGITS_46_STEPS

pytestmark = pytest.mark.timeout(600)  # hosts take a busy machine a minute to import
PATIENCE_S = 200.0

BATCHES = 23  # of 32 samples on each of 2 workers

# How each host is asked to make one step of two batches: constants of the example, options of its host.
TWICE: dict[str, tuple[Mapping[str, int], Mapping[str, int]]] = {
    "digits_accelerate": ({"ACCUMULATED": 2}, {}),
    "digits_fabric": ({"ACCUMULATED": 2}, {}),
    "digits_lightning": ({}, {"accumulate_grad_batches": 2}),
    "digits_trainer": ({}, {"gradient_accumulation_steps": 2}),
}
_OTHERS = [name for name in TWICE if name != "digits_lightning"]


def assert_as_torch(traces: list[Trace]) -> None:
    for name, expected in by_torch(traces).items():
        for trace in traces:
            torch.testing.assert_close(trace.end[name], expected, rtol=0, atol=DIGITS_46_STEPS)


@pytest.mark.parametrize("name", ["digits_loop", *TWICE])
def test_trains_and_schedules_as_torch_and_goes_on_from_a_checkpoint_to_the_same_bits(pool, tmp_path, name):
    whole = pool.run(WORLD, train, name, tmp_path / "whole", {"EPOCHS": 2}, timeout_s=PATIENCE_S)
    assert len(whole[0].batches) == len(set(whole[0].rates)) == 2 * BATCHES  # the rate changes with each step
    assert_as_torch(whole)
    assert whole[0].accuracy > 0.9
    if name == "digits_loop":
        return  # it saves nothing
    place = tmp_path / "parts"
    with pytest.raises(Stopped):
        pool.run(WORLD, train, name, place, {"EPOCHS": 2}, {}, BATCHES + 1, timeout_s=PATIENCE_S)
    rest = pool.run(WORLD, train, name, place, {"EPOCHS": 2}, timeout_s=PATIENCE_S)
    assert rest[0].rates == whole[0].rates[BATCHES:]
    for rank in range(WORLD):
        for key, value in whole[rank].end.items():
            assert torch.equal(rest[rank].end[key], value), key


# Lightning's is by our own glue; the others' run in `make soak`.
@pytest.mark.parametrize("name", ["digits_lightning", *(pytest.param(n, marks=pytest.mark.soak) for n in _OTHERS)])
def test_gradients_of_two_batches_make_one_step_and_are_sent_once(pool, tmp_path, name):
    constants, options = TWICE[name]
    even = {"EPOCHS": 1, "BATCH_SIZE": 30}
    traces = pool.run(WORLD, train, name, tmp_path, {**even, **constants}, options, timeout_s=PATIENCE_S)
    assert len(traces[0].batches) == 2 * len(traces[0].rates) == 24
    assert_as_torch(traces)
    once = 4 * sum(p.numel() for p in traces[0].end.values()) / WORLD
    assert traces[0].bytes_up < 1.1 * once


@pytest.mark.soak
def test_started_by_torchrun_every_host_comes_to_the_same_accuracy(tmp_path):
    found = {}
    for name in ["digits_loop", *TWICE]:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(EXAMPLES / f"{name}.py")]
        place = [] if name == "digits_loop" else [str(tmp_path / name)]
        done = subprocess.run([*command, *place], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        found[name] = float(re.search(r"^test accuracy ([\d.]+)$", done.stdout, re.MULTILINE).group(1))  # type: ignore[union-attr]
    print(json.dumps(found))
    assert min(found.values()) > 0.97
    assert max(found.values()) - min(found.values()) < 0.02
