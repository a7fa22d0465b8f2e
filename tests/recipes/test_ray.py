"""The recipes for Ray run on a local cluster of two workers. Skipped where ray is not installed."""

import os
import runpy
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

import adamesh

ray = pytest.importorskip("ray")
RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of which there are many
    pytest.mark.timeout(300),
]


@pytest.fixture
def cluster():
    # Workers find adamesh where this process has found it.
    environment = {"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}}
    ray.init(num_cpus=3, include_dashboard=False, runtime_env=environment)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_ray_train_trains_with_the_optimizer_over_its_process_group(tmp_path):
    pytest.importorskip("ray.train.torch")
    recipe = runpy.run_path(str(RECIPES / "ray_train.py"))
    recipe["fit"](tmp_path, 2)
    model = recipe["build_model"]()
    optimizer = adamesh.AdamW(model.named_parameters())
    adamesh.load(tmp_path / "checkpoint", model, optimizer)
    inputs = torch.randn(64, 16)
    assert optimizer.steps_made == 160
    assert torch.nn.functional.mse_loss(model(inputs), inputs.sum(dim=1, keepdim=True)) < 2


@pytest.mark.usefixtures("cluster")
def test_of_two_actors_one_is_killed_and_another_joins_and_both_come_to_the_end(tmp_path):
    recipe = runpy.run_path(str(RECIPES / "ray_elastic.py"))
    recipe["train"].__globals__["EPOCHS"] = 2000  # long enough for another to come
    founders = [recipe["Worker"].remote() for _ in range(2)]
    victim = ray.get(founders[1].pid.remote())

    def kill() -> None:
        while not (tmp_path / "members.json").exists():
            time.sleep(0.05)
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    ends = recipe["follow"](tmp_path, founders)
    killer.join()
    assert len(ends) == 2
    assert {end["steps"] for end in ends} == {8000}
    assert max(end["changes"] for end in ends) == 2
