"""What a host does to gradients and states behind an optimizer's back is refused, in words that say what to do."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import adamesh
from adamesh.errors import CheckpointError, ConfigurationError, GradientError
from tests.hosts.traced import WORLD, as_launched, loaded, train

pytestmark = pytest.mark.timeout(600)  # hosts take a busy machine a minute to import
PATIENCE_S = 200.0


def small() -> tuple[nn.Module, adamesh.AdamW, Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    return model, adamesh.AdamW(model.named_parameters(), lr=1e-2), torch.ones(2, 4)


def clipped_by_accelerate() -> None:
    with as_launched():
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        model, optimizer, x = small()
        accelerator.backward(model(x).sum())
        accelerator.clip_grad_norm_(model.parameters(), 0.1)
        with pytest.raises(GradientError, match="max_grad_norm"):
            optimizer.step()


def clipped_by_fabric() -> None:
    with as_launched():
        from lightning.fabric import Fabric

        fabric = Fabric(accelerator="cpu", devices=WORLD, strategy="ddp")
        fabric.launch()
        model, optimizer, x = small()
        fabric.backward(model(x).sum())
        fabric.clip_gradients(model, optimizer, max_norm=0.1)
        with pytest.raises(GradientError, match="max_grad_norm"):
            optimizer.step()


@pytest.mark.parametrize("clip", [clipped_by_accelerate, clipped_by_fabric])
def test_clipping_by_the_host_is_refused(pool, clip):
    pool.run(WORLD, clip, timeout_s=PATIENCE_S)


@pytest.mark.parametrize(
    ("name", "option", "error", "words"),
    [
        ("digits_lightning", {"gradient_clip_val": 1.0}, GradientError, "max_grad_norm"),
        ("digits_trainer", {"max_grad_norm": 1.0}, ConfigurationError, r"Plan\(max_grad_norm"),
        ("digits_trainer", {"save_only_model": False}, ConfigurationError, "save_only_model=True"),
    ],
)
def test_an_option_of_the_host_that_would_do_harm_is_refused(pool, tmp_path, name, option, error, words):
    with pytest.raises(error, match=words):
        pool.run(WORLD, train, name, tmp_path, {"EPOCHS": 1}, option, timeout_s=PATIENCE_S)


def saved_by_accelerate_itself(place: Path) -> Any:
    with as_launched():
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        model, optimizer, x = small()
        prepared = accelerator.prepare(optimizer)
        accelerator.backward(model(x).sum())
        prepared.step()
        accelerator.save_state(str(place))
        accelerator.wait_for_everyone()
        accelerator.load_state(str(place))


def test_a_checkpoint_with_one_worker_s_share_is_refused_by_the_others(pool, tmp_path):
    first, second = pool.run(WORLD, saved_by_accelerate_itself, tmp_path, return_exceptions=True, timeout_s=PATIENCE_S)
    assert first is None
    assert isinstance(second, CheckpointError)
    assert "adamesh.load does" in str(second)


def with_torchs_optimizer(place: Path) -> None:
    with as_launched():
        example = loaded("digits_lightning")
        example.Digits.configure_optimizers = lambda self: torch.optim.AdamW(self.parameters())
        with pytest.raises(ConfigurationError, match="nothing would average"):
            example.main(place)


def test_lightning_s_strategy_refuses_optimizers_that_would_train_workers_apart(pool, tmp_path):
    pool.run(WORLD, with_torchs_optimizer, tmp_path, timeout_s=PATIENCE_S)


def wrapped_in_ddp() -> str:
    model, optimizer, x = small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ddp = DistributedDataParallel(model)
        ddp(x).sum().backward()
        with pytest.raises(GradientError) as caught:
            optimizer.step()
    return str(caught.value)


def test_a_model_that_ddp_wraps_too_is_refused(pool):
    assert "leave the model unwrapped" in pool.run(WORLD, wrapped_in_ddp, timeout_s=PATIENCE_S)[0]
