"""Whole runs of one worker, in this process. Runs of several are under tests/integration."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adamesh.checkpoint.manifest import read_manifest
from adamesh.data.ledger import expected
from adamesh.data.sampler import GlobalSampler
from adamesh.errors import CheckpointError, ConfigurationError, DataError, DiskFull, Diverged
from adamesh.tasks.catalog import find_task
from adamesh.tasks.regression import Regression
from adamesh.train.config import OptimSettings, RunConfig, ScheduleSettings, resolved, write_config
from adamesh.train.events import read_events
from adamesh.train.progress import Silent
from adamesh.train.run import Run
from adamesh.train.trained import Trained, export, predictions
from adamesh.train.trainer import Trainer
from adamesh.train.workers import GroupWorkers

SHORT = RunConfig(task="regression", batch_size=100, steps=25, checkpoint_every=10, eval_every=10)


class Disturbed(Regression):
    """Something happens in the forward pass of one step."""

    def __init__(self, at, what):
        self.calls, self.at, self.what = 0, at, what

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        self.calls += 1
        return self.what(loss) if self.calls == self.at else loss


def stop(loss):
    signal.raise_signal(signal.SIGTERM)
    return loss


def fail(loss):
    raise ZeroDivisionError("as planned")


def trainer(folder, config=SHORT, task=None):
    task = task or Regression()
    full = resolved(config, task)
    folder.mkdir(exist_ok=True)
    splits = task.load_data(full.data, full.seed)
    return Trainer(Run(full, task, splits, folder, GroupWorkers(0, 1, group=None), torch.device("cpu")), Silent())


def trained(folder, config=SHORT, task=None, resume=False):
    one = trainer(folder, config, task)
    return one.train(resume), one.model


def curve(folder: Path):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    evaluations = [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]
    return steps, evaluations


def same_bits(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.fixture
def whole(tmp_path):
    """An uninterrupted run, to compare with."""
    summary, model = trained(tmp_path / "whole")
    return summary, model, curve(tmp_path / "whole")


def test_a_run_learns_and_leaves_what_it_promises(tmp_path):
    summary, _ = trained(tmp_path / "run", RunConfig(task="regression"))
    assert summary.eval["loss"] < 0.015
    assert (summary.stopped, summary.steps, summary.samples) == ("finished", 320, 20 * 1024)
    written = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert written["final_loss"] == summary.final_loss
    promised = "task world_size steps samples final_loss eval seconds samples_per_s state_bytes_per_rank "
    promised += "bytes_up_per_step bytes_down_per_step param_count events config_hash"
    assert set(promised.split()) <= set(written)
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    promised = "step loss lr grad_norm step_s comm_exposed_s data_wait_s bytes_up bytes_down bytes_per_step samples "
    promised += "state_bytes"
    assert set(first) == set(promised.split())


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path, whole):
    folder = tmp_path / "run"
    summary, _ = trained(folder, task=Disturbed(7, stop))
    assert (summary.stopped, summary.steps) == ("interrupted", 7)
    summary, model = trained(folder, resume=True)
    assert (summary.stopped, summary.steps, summary.samples) == ("finished", 25, whole[0].samples)
    assert same_bits(model, whole[1])
    assert curve(folder) == whole[2]
    assert summary.ledger == whole[0].ledger
    assert summary.ledger == expected(GlobalSampler(1024, 100, 0), 25).saved()
    assert [event.kind for event in summary.events] == ["interrupted", "resumed"]


def test_a_failed_run_goes_on_from_its_last_checkpoint_and_its_curve_joins(tmp_path, whole):
    folder = tmp_path / "run"
    with pytest.raises(ZeroDivisionError) as failure:
        trained(folder, task=Disturbed(18, fail))
    assert failure.value.__notes__ == ["in step 18"]
    _, model = trained(folder, resume=True)
    assert same_bits(model, whole[1])
    assert curve(folder) == whole[2]


def test_a_run_falls_back_behind_a_damaged_checkpoint_and_says_so(tmp_path, whole):
    folder = tmp_path / "run"
    trained(folder)
    for file in (folder / "checkpoints" / "step-00000025").iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    summary, model = trained(folder, resume=True)
    assert [event.kind for event in summary.events] == ["rollback", "resumed"]
    assert "step-00000025" in summary.events[0].message
    assert same_bits(model, whole[1])
    assert curve(folder) == whole[2]


def test_a_run_that_failed_before_its_first_checkpoint_starts_again(tmp_path, whole):
    folder = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        trained(folder, task=Disturbed(5, fail))
    _, model = trained(folder, resume=True)
    assert same_bits(model, whole[1])
    assert curve(folder) == whole[2]


def test_a_finished_run_has_nothing_to_resume_but_its_summary(tmp_path, whole):
    summary, model = trained(tmp_path / "whole", resume=True)
    assert (summary.steps, summary.eval, summary.final_loss) == (25, whole[0].eval, whole[0].final_loss)
    assert same_bits(model, whole[1])
    assert curve(tmp_path / "whole") == whole[2]


def test_training_stops_once_the_gradient_has_settled(tmp_path):
    # Full batches: the gradient tends to that of the noise-free optimum, and nothing shakes it.
    config = replace(SHORT, batch_size=1024, steps=5000, tolerance=0.5, tolerance_steps=3, log_every=100)
    summary, _ = trained(tmp_path / "run", replace(config, schedule=ScheduleSettings(kind="constant")))
    assert summary.stopped == "tolerance"
    assert summary.steps < 5000
    assert (tmp_path / "run" / "checkpoints" / f"step-{summary.steps:08d}").is_dir()


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_last_good_checkpoint(tmp_path):
    with pytest.raises(Diverged, match=r"the loss is nan .* lower optim\.lr") as end:
        trained(tmp_path / "run", task=Disturbed(12, lambda loss: loss * float("nan")))
    assert end.value.__notes__ == ["in step 12"]
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step-00000010\n"


def test_accumulation_changes_nothing_but_rounding(tmp_path, whole):
    summary, model = trained(tmp_path / "run", replace(SHORT, micro_batches=3))
    for mine, theirs in zip(model.parameters(), whole[1].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert summary.final_loss == pytest.approx(whole[0].final_loss, rel=1e-3)


def test_autocast_trains_too(tmp_path):
    summary, _ = trained(tmp_path / "run", replace(SHORT, precision="bf16", optim=OptimSettings(rule="adam")))
    assert summary.stopped == "finished"


def test_a_new_run_does_not_take_over_the_folder_of_another(tmp_path, whole):
    with pytest.raises(ConfigurationError, match="another run's checkpoints"):
        trained(tmp_path / "whole")


@pytest.mark.parametrize("change", [{"batch_size": 50}, {"seed": 5}])
def test_a_run_does_not_go_on_in_another_order_of_samples(tmp_path, whole, change):
    with pytest.raises(ConfigurationError, match="restore the settings"):
        trained(tmp_path / "whole", replace(SHORT, **change), resume=True)


def test_a_run_begins_with_the_weights_it_is_given_and_resumes_without_them(tmp_path, whole):
    path = tmp_path / "weights.safetensors"
    save_file(whole[1].state_dict(), path)
    config = replace(SHORT, weights=path, optim=OptimSettings(lr=0.0), steps=1)
    summary, model = trained(tmp_path / "run", config)
    assert same_bits(model, whole[1])
    assert [event.kind for event in summary.events] == ["weights"]
    path.unlink()
    trained(tmp_path / "run", replace(config, steps=2), resume=True)


def test_weights_of_another_model_are_refused_before_the_first_step(tmp_path):
    save_file({"other.weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(DataError, match=r"other\.weight is of shape \[3\] in the file") as refused:
        trained(tmp_path / "run", replace(SHORT, weights=tmp_path / "weights.safetensors"))
    assert not hasattr(refused.value, "__notes__")


def test_only_every_so_many_steps_are_logged_and_the_last(tmp_path):
    trained(tmp_path / "run", replace(SHORT, log_every=10))
    assert [step for step, _ in curve(tmp_path / "run")[0]] == [10, 20, 25]


def test_the_best_checkpoint_outlives_the_newest_ones_and_is_exported(tmp_path):
    # A learning rate that is far too large after its warm-up: the best evaluation is not the last.
    config = replace(SHORT, steps=60, keep_checkpoints=1, optim=OptimSettings(lr=3.0))
    schedule = ScheduleSettings(kind="constant", warmup_steps=0)
    folder = tmp_path / "run"
    write_config(replace(config, schedule=schedule), tmp_path / "config.toml")
    summary, _ = trained(folder, replace(config, schedule=schedule))
    (tmp_path / "config.toml").rename(folder / "config.toml")
    evaluations = dict(curve(folder)[1])
    best = min(evaluations, key=lambda step: evaluations[step])
    assert summary.best == {"metric": "loss", "value": evaluations[best], "step": best}
    assert [p.name for p in (folder / "checkpoints").glob("step-*")] == ["step-00000060"]
    chosen = Trained(folder, "best")
    assert chosen.step == best
    export(chosen, folder / "model.safetensors")
    assert set(load_file(folder / "model.safetensors")) == set(chosen.model.state_dict())


def test_a_run_without_better_evaluations_stops_early_also_after_a_resume(tmp_path):
    config = replace(SHORT, steps=5000, eval_every=5, patience=4, optim=OptimSettings(lr=0.0))
    summary, _ = trained(tmp_path / "run", config)
    assert (summary.stopped, summary.steps) == ("early-stop", 25)
    other = tmp_path / "other"
    trained(other, config, task=Disturbed(13, stop))
    resumed, _ = trained(other, config, resume=True)
    assert (resumed.stopped, resumed.steps) == ("early-stop", 25)


def test_evaluations_tell_how_training_went_since_the_one_before(tmp_path):
    trained(tmp_path / "run", replace(SHORT, steps=20))
    steps = dict(curve(tmp_path / "run")[0])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (first, second) = [line for line in lines if "eval_loss" in line]
    assert first["train_loss"] == pytest.approx(sum(steps[step] for step in range(1, 11)) / 10)
    assert second["train_loss"] == pytest.approx(sum(steps[step] for step in range(11, 21)) / 10)
    trained(tmp_path / "both", replace(SHORT, steps=20, eval_train=True))
    last = json.loads((tmp_path / "both" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"train_loss", "train_absolute_error", "eval_loss", "eval_absolute_error"} <= last.keys()


def test_predictions_are_the_models_and_inputs_of_another_shape_are_refused(tmp_path):
    folder = tmp_path / "run"
    trained(folder)
    write_config(SHORT, folder / "config.toml")
    table = torch.randn(3, 8)
    (tmp_path / "in.csv").write_text("\n".join(",".join(map(str, row)) for row in table.tolist()))
    model = Trained(folder, "latest")
    records = predictions(model, tmp_path / "in.csv")
    torch.testing.assert_close(torch.tensor([r["target"] for r in records]), model.model(table).detach()[:, 0])
    (tmp_path / "bad.csv").write_text("1,2,3\n")
    with pytest.raises(DataError, match="line 1: has 3 values, and every line must have 8 numbers"):
        predictions(model, tmp_path / "bad.csv")


def test_a_model_that_is_sized_by_its_data_is_built_again_from_the_runs_data(tmp_path):
    config = RunConfig(task="movielens-deepfm", seed=5, steps=2, batch_size=8, eval_every=100)
    folder = tmp_path / "run"
    _, model = trained(folder, config, task=find_task("movielens-deepfm"))
    write_config(config, folder / "config.toml")
    again = Trained(folder, "latest").model.state_dict()
    assert again.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(again[name], value), name


def test_curves_are_written_for_tensorboard_too(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(tmp_path / "run", replace(SHORT, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("step/loss")] == list(range(1, 26))
    assert [event.step for event in events.Scalars("eval/loss")] == [10, 20, 25]


def test_a_full_disk_is_one_error_and_leaves_the_last_good_checkpoint(small_disk):
    folder = small_disk(96) / "run"
    config = replace(SHORT, steps=60, checkpoint_every=1, keep_checkpoints=100, keep_best=False, log_every=60)
    # What is written to metrics.jsonl while a save is under way would meet the full disk, too.
    config = replace(config, eval_every=60, checkpoint_async=False)
    # Saves that fail are events, until there is no room for an event either, or for the last one.
    with pytest.raises((CheckpointError, OSError, DiskFull), match=r"No space left|the disk is full"):
        trained(folder, config)
    assert "checkpoint-failed" in {event.kind for event in read_events(folder / "events.jsonl")}
    newest = trainer(folder, config)._checkpoints.candidates()
    assert newest
    shutil.rmtree(folder / "checkpoints" / newest[-1].name)  # room to go on
    one = trainer(folder, replace(config, checkpoint_every=60))
    one._restore()
    assert one.totals.steps == newest[0].step
    one._stepper.close()


def test_checkpoints_behind_training_are_those_that_training_waits_for_to_the_bit(tmp_path):
    config = replace(SHORT, checkpoint_every=5, keep_checkpoints=9)
    for name, behind in (("behind", True), ("before", False)):
        trained(tmp_path / name, replace(config, checkpoint_async=behind))
    folders = [sorted((tmp_path / name / "checkpoints").glob("step-*")) for name in ("behind", "before")]
    assert [folder.name for folder in folders[0]] == [f"step-{step:08d}" for step in range(5, 26, 5)]
    for pair in zip(*folders, strict=True):
        hashes = [{record.sha256 for record in read_manifest(folder).files} for folder in pair]
        assert hashes[0] == hashes[1]


def test_a_run_ends_with_the_step_in_which_its_time_is_over_and_counts_that_of_all_its_starts(tmp_path):
    limited = replace(SHORT, max_seconds=1e-6)
    for taken in (1, 2):
        summary, _ = trained(tmp_path / "run", limited, resume=taken > 1)
        assert (summary.stopped, summary.steps) == ("time", taken)
        assert summary.eval["loss"] > 0
    summary, _ = trained(tmp_path / "run", replace(SHORT, max_seconds=1e6), resume=True)
    assert (summary.stopped, summary.steps) == ("finished", 25)
