"""What --over makes of a configuration: every combination, each with the same budget."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamesh.errors import ConfigurationError
from adamesh.train.config import changed, known_keys
from adamesh.train.settings import RunConfig
from adamesh.tune.arms import Budget, make_arms, read_overs
from tests.unit.tune.trials import BASE, comparison


def test_several_overs_make_all_combinations_and_the_first_values_come_first(tmp_path):
    arms, _ = comparison(tmp_path, "plan.up=exact,int8,int4", "optim.lr=0.1,0.2")
    assert [(arm.config.plan.up, arm.config.optim.lr) for arm in arms] == [
        *product(("exact", "int8", "int4"), (0.1, 0.2))
    ]
    assert arms[0].name == "plan.up=exact, optim.lr=0.1"


def test_rules_start_from_their_own_learning_rates_and_the_order_of_overs_is_free():
    (sgd,) = make_arms(BASE, read_overs(["optim.momentum=0.9"], "sgd"), Budget())
    assert (sgd.config.optim.lr, sgd.config.optim.momentum) == (1e-3, 0.9)
    adamw, nadam = make_arms(BASE, read_overs([], "adamw,nadam"), Budget())
    assert adamw.config.optim.lr == nadam.config.optim.lr == 3e-2


def test_each_rule_may_have_a_learning_rate_of_its_own_and_keys_may_change_together():
    sgd, adam, adadelta = make_arms(BASE, read_overs([], "sgd:0.5, adam:1e-2,adadelta"), Budget())
    assert [arm.config.optim.lr for arm in (sgd, adam, adadelta)] == [0.5, 1e-2, 1.0]
    assert (sgd.name, adadelta.name) == ("optim.rule=sgd, optim.lr=0.5", "optim.rule=adadelta")
    overs = read_overs(["optim.rule:batch-size:optim.max_iter=adam,lbfgs:20:3", "plan.guard=false,true"], None)
    arms = make_arms(BASE, overs, Budget())
    assert [(arm.config.batch_size, arm.config.steps, arm.config.optim.max_iter) for arm in arms] == [
        *[(10, 4, None)] * 2,
        *[(20, 2, 3)] * 2,
    ]
    assert [arm.config.plan.guard for arm in arms] == [False, True] * 2


@given(steps=st.integers(1, 1000), size=st.integers(1, 500), other=st.integers(1, 500))
def test_every_arm_sees_as_many_samples_to_the_nearest_step(steps, size, other):
    config = RunConfig(task="regression", nproc=1, steps=steps, batch_size=size)
    sizes = ",".join(map(str, sorted({size, other})))
    for arm in make_arms(config, read_overs([f"batch_size={sizes}"], None), Budget()):
        batch, taken = arm.config.batch_size or 0, arm.config.steps or 0
        assert abs(taken * batch - steps * size) <= max(batch / 2, batch - steps * size)


def test_epochs_are_the_same_for_all_and_a_schedule_fits_its_arm(tmp_path):
    config = RunConfig(task="regression", nproc=1, epochs=3)
    arms, _ = comparison(tmp_path, "batch_size=16,64", config=config)
    assert [(arm.config.epochs, arm.config.steps) for arm in arms] == [(3, None)] * 2


def test_a_budget_in_seconds_ends_every_trial_and_the_rate_does_not_fall_to_an_end_nobody_knows(tmp_path):
    arms, _ = comparison(tmp_path, "schedule.kind=none,cosine", budget=5.0)
    assert [arm.config.max_seconds for arm in arms] == [5.0, 5.0]
    assert [arm.config.schedule.kind for arm in arms] == ["constant", "cosine"]


def test_trials_of_all_arms_have_the_same_seeds_and_folders_of_their_own(tmp_path):
    arms, trials = comparison(tmp_path, "optim.betas=0.9/0.999,0.9/0.99", "plan.max-grad-norm=none,1.0", seeds=3)
    assert len({trial.folder for trial in trials}) == len(trials) == 12
    assert all(trial.folder.parent == tmp_path / "trials" and trial.config.out == trial.folder for trial in trials)
    for arm in arms:
        assert [trial.config.seed for trial in trials if trial.arm is arm] == [0, 1, 2]
    assert all(len(trial.folder.name) < 200 for trial in trials)
    _, long = comparison(tmp_path, "weights=" + ",".join(f"{'a' * 300}{number}" for number in range(5)))
    assert len({trial.folder for trial in long}) == len(long) == 10
    assert all(len(trial.folder.name) < 200 for trial in long)
    assert arms[1].config.plan.max_grad_norm == 1.0
    assert arms[2].config.optim.betas == (0.9, 0.99)


@pytest.mark.parametrize(
    ("overs", "said"),
    [
        (["plan.up"], "must be key=value,value"),
        (["plan.up=exact,"], "must be key=value,value"),
        (["plan.uq=exact"], "unknown key plan.uq; the nearest known key is plan.up"),
        (["optim.lr=1,2", "optim.lr=3"], "stands there twice"),
        (["optim.lr=1,1"], "stands there twice"),
        (["optim.rule:optim.lr=sgd:1:2,adam"], "has values for more keys than it names, optim.rule:optim.lr"),
        (["optim.rule:optim.lr=sgd:,adam"], "must be key=value,value"),
        (["optim.lr:optim.lr=1:2,2:1"], "optim.lr stands there twice"),
        (["steps=1,2"], "steps cannot be compared; every arm has the same budget"),
        (["seed=1,2"], "take --seeds"),
        (["plan.up=exact,int9"], "plan.up=int9: plan.up = 'int9': must be one of"),
        (["nproc=1,20"], "nproc=20: batch_size = 10 is the global batch and too small for 20 workers"),
        (["optim.lr=fast"], "optim.lr = 'fast': must be a number"),
        (["optim.momentum=0.9"], "optim.momentum=0.9: optim.momentum = 0.9: belongs to sgd"),
        (["plan.sync=every-9z"], "plan.sync = 'every-9z': must be"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_starts(tmp_path, overs, said):
    with pytest.raises(ConfigurationError) as caught:
        comparison(tmp_path, *overs)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "7", 7),
        ("optim.lr", "1e-3", 1e-3),
        ("plan.overlap", "false", False),
        ("plan.max-grad-norm", "none", None),
        ("optim.betas", "0.8/0.9", (0.8, 0.9)),
        ("schedule.kind", "linear", "linear"),
        ("weights", "a/b.safetensors", Path("a/b.safetensors")),
    ],
)
def test_a_text_becomes_what_the_key_holds(key, text, value):
    config = changed(RunConfig(), key, text)
    for name in key.replace("-", "_").split("."):
        config = getattr(config, name)
    assert config == value


@given(key=st.sampled_from(sorted(known_keys())), text=st.text(max_size=8))
def test_any_text_for_any_key_is_a_configuration_or_one_error(key, text):
    complaint = key
    try:
        changed(RunConfig(), key, text)
    except ConfigurationError as error:
        complaint = str(error)
    # Some keys fit only together with others, which the complaint then names.
    assert key.rpartition(".")[2] in complaint or "steps" in complaint or f"[{key.partition('.')[0]}]" in complaint
