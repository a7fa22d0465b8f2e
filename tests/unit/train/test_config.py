from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamesh.errors import ConfigurationError
from adamesh.tasks.catalog import find_task
from adamesh.train.config import (
    OptimSettings,
    PlanSettings,
    RunConfig,
    ScheduleSettings,
    config_hash,
    load_config,
    resolved,
    write_config,
)

positive = st.floats(min_value=0, exclude_min=True, max_value=1e9)
configs = st.builds(
    RunConfig,
    task=st.text(min_size=1).filter(lambda text: text.isprintable()),
    data=st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(Path),
    seed=st.integers(0, 2**63 - 1),
    steps=st.none() | st.integers(1, 10**9),
    tolerance=st.none() | positive,
    optim=st.builds(OptimSettings, lr=st.none() | positive, betas=st.tuples(*[st.floats(0, 0.99)] * 2)),
    schedule=st.builds(ScheduleSettings, kind=st.sampled_from([None, "constant", "cosine"])),
    plan=st.builds(PlanSettings, overlap=st.booleans(), bucket_mb=positive),
)


def loaded(folder, text):
    path = folder / "config.toml"
    path.write_text(text)
    return load_config(path)


@given(config=configs)
def test_a_written_configuration_is_read_back_equal(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("config") / "config.toml"
    write_config(config, path)
    assert load_config(path) == config
    assert config_hash(load_config(path)) == config_hash(config)


def test_sections_fill_their_records(tmp_path):
    config = loaded(tmp_path, 'task = "regression"\n[optim]\nlr = 1\n[plan]\nmax_grad_norm = 2.5')
    assert config == RunConfig(task="regression", optim=OptimSettings(lr=1.0), plan=PlanSettings(max_grad_norm=2.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize = 3", "unknown key batchsize; the nearest known key is batch_size"),
        ("lr = 0.1", "unknown key lr; the nearest known key is optim.lr"),
        ("[optim]\nlearning_rate = 0.1", "unknown key optim.learning_rate; the nearest known key is optim."),
        ("[optimizer]\nlr = 0.1", "unknown key optimizer; the nearest known key is optim."),
        ("[optim]\nlr = -0.1", "optim.lr = -0.1: must be a finite number of at least 0"),
        ("[optim]\nlr = nan", "optim.lr = nan: must be a finite number"),
        ("[optim]\nlr = '0.1'", "optim.lr = '0.1': must be a number"),
        ("[optim]\nbetas = [0.9, 1.0]", "optim.betas = [0.9, 1.0]: each must be at least 0 and below 1"),
        ("[optim]\nbetas = 0.9", "optim.betas = 0.9: must be a list of 2 numbers"),
        ("[optim]\nmomentum = 0.9", "optim.momentum = 0.9: belongs to sgd, and optim.rule is 'adamw'; leave it out"),
        (
            "[optim]\nrule = 'sgd'\neps = 1e-8",
            "optim.eps = 1e-08: belongs to adamw, adam, nadam, adadelta, onebit",
        ),
        ("[optim]\nrule = 'nadan'", "optim.rule = 'nadan': must be one of 'adamw', 'adam', 'nadam'"),
        ("[optim]\nrule = 'sgd'\nnesterov = true", "optim.nesterov = true: needs optim.momentum above 0"),
        ("[optim]\nrule = 'adadelta'\nrho = 2", "optim.rho = 2.0: must lie in 0 to 1"),
        ("[optim]\nrule = 'lbfgs'\nmax_iter = 0", "optim.max_iter = 0: must be a finite number of at least 1"),
        ("[optim]\nrule = 'adamww'", "did you mean 'adamw'?"),
        ("optim = 3", "optim = 3: is a section; write [optim]"),
        ("steps = true", "steps = True: must be a whole number"),
        ("steps = 1.5", "steps = 1.5: must be a whole number"),
        ("steps = 0", "steps = 0: must be a finite number of at least 1"),
        ("steps = 5\nepochs = 5", "steps = 5: set it or epochs = 5, not both"),
        ("seed = -1", "seed = -1: must be at least 0"),
        ("tolerance = 0", "tolerance = 0.0: must be a finite number above 0"),
        (
            "[plan]\nup = 'int7'",
            "plan.up = 'int7': must be one of 'exact', 'bf16', 'fp16', 'int8', 'int4', 'int2', 'sign'",
        ),
        ("[plan]\ndown = 'topk-2'", "plan.down = 'topk-2': must be one of 'exact'"),
        ("[plan]\nacross = 'lowrank-0'", "plan.across = 'lowrank-0': must be one of 'exact'"),
        ("[plan]\nsync = 'sometimes'", "plan.sync = 'sometimes': must be one of 'every-step', 'every-16'"),
        ("[plan]\nsync = 'every-0'", "plan.sync = 'every-0': must be one of 'every-step'"),
        ("[plan]\nouter_lr = 0.5", "plan.outer_lr = 0.5: is for diloco; sync is 'every-step'"),
        ("[plan]\nsync = 'diloco-8'\nblend = 1", "plan.blend = 1.0: must be at least 0 and below 1"),
        ("task", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_file_key_value_and_rule(tmp_path, text, message):
    with pytest.raises(ConfigurationError) as refused:
        loaded(tmp_path, text)
    assert str(refused.value).startswith(f"{tmp_path / 'config.toml'}: ")
    assert message in str(refused.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_config(tmp_path / "absent.toml")


def test_resolving_fills_in_the_task_s_defaults_and_keeps_what_was_given():
    task = find_task("digits")
    full = resolved(RunConfig(optim=OptimSettings(lr=0.5)), task)
    assert full.batch_size == task.defaults.batch_size
    assert (full.steps, full.epochs) == (None, task.defaults.epochs)
    assert (full.optim.lr, full.optim.weight_decay) == (0.5, 1e-2)
    assert full.schedule.kind == task.defaults.schedule
    assert resolved(full, task) == full


def test_steps_given_leave_no_room_for_the_task_s_epochs():
    assert resolved(RunConfig(steps=7), find_task("digits")).epochs is None


def test_plain_adam_gets_no_weight_decay_by_default():
    assert resolved(RunConfig(optim=OptimSettings(rule="adam")), find_task("digits")).optim.weight_decay == 0


def test_paths_are_made_absolute_so_that_a_run_resumes_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    full = resolved(RunConfig(task="mine.py", data=Path("here.npz")), find_task("digits"))
    assert (full.task, full.data) == (str(tmp_path / "mine.py"), tmp_path / "here.npz")


def test_the_hash_ignores_where_a_run_lies_and_how_many_workers_it_has():
    config = RunConfig()
    assert config_hash(replace(config, nproc=5, out=Path("elsewhere"))) == config_hash(config)
    assert config_hash(replace(config, seed=1)) != config_hash(config)
    assert config_hash(replace(config, optim=OptimSettings(lr=1.0))) != config_hash(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RunConfig(batch_size=3), "too small for 4 workers"),
        (RunConfig(batch_size=8, plan=PlanSettings(islands=3)), "must divide the number of workers, 4"),
    ],
)
def test_a_number_of_workers_that_does_not_fit_is_refused(config, message):
    with pytest.raises(ConfigurationError, match=message):
        config.check_world(4)
