"""Every rule that a configuration can name: torch's defaults, trained, resumed and checked."""

import json
from dataclasses import replace

import pytest
import torch

import adamesh
from adamesh.errors import Diverged
from adamesh.tasks.catalog import find_task
from adamesh.train.check import REPORT, check_worker
from adamesh.train.comparison import CheckReport
from adamesh.train.config import OptimSettings, RunConfig, ScheduleSettings, resolved, write_config
from adamesh.train.rules import RULES
from tests.unit.train.test_trainer import SHORT, same_bits, trained

NUMBERS = {
    "nadam": OptimSettings("nadam", momentum_decay=0.01, decoupled_weight_decay=True, weight_decay=0.1),
    "sgd": OptimSettings("sgd", lr=0.05, momentum=0.9, nesterov=True),
    "adadelta": OptimSettings("adadelta", rho=0.8),
    "onebit-adam": OptimSettings("onebit-adam", freeze_at=6),
    "lbfgs": OptimSettings("lbfgs", max_iter=4, history_size=5, line_search_fn="strong_wolfe"),
}


@pytest.mark.parametrize("name", RULES)
def test_what_is_not_set_is_torchs_default(name):
    rule = RULES[name]
    for package in (torch.optim, adamesh) if rule.in_torch else (adamesh,):
        defaults = getattr(package, rule.class_name)([torch.nn.Parameter(torch.ones(1))]).defaults
        assert {key: defaults[key] for key in rule.defaults} == rule.defaults


def test_a_tasks_learning_rate_is_for_rules_like_adam():
    task = find_task("digits")
    found = {name: resolved(RunConfig(optim=OptimSettings(name)), task).optim.lr for name in RULES}
    lr = task.defaults.lr
    like_adam = {"adamw": lr, "adam": lr, "nadam": lr, "onebit-adam": lr}
    assert found == like_adam | {"sgd": 1e-3, "adadelta": 1.0, "lbfgs": 1.0}


def test_the_header_names_the_numbers_that_are_used():
    full = resolved(RunConfig(optim=NUMBERS["sgd"]), find_task("digits"))
    assert full.optim.described() == "sgd: lr 0.05, momentum 0.9, dampening 0, weight_decay 0, nesterov true"


@pytest.mark.parametrize("name", NUMBERS)
def test_a_run_of_any_rule_learns_and_resumes_where_it_stopped(name, tmp_path):
    config = replace(SHORT, optim=NUMBERS[name], schedule=ScheduleSettings(kind="constant", warmup_steps=0))
    summary, model = trained(tmp_path / "whole", config)
    losses = [json.loads(line).get("loss") for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert summary.final_loss < losses[0]
    trained(tmp_path / "cut", replace(config, steps=10))
    _, again = trained(tmp_path / "cut", config, resume=True)
    assert same_bits(again, model)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.in_torch and name in NUMBERS])
def test_a_check_compares_with_torchs_own_optimizer_of_the_rule(name, tmp_path):
    config = RunConfig(task="regression", steps=3, optim=NUMBERS[name])
    write_config(config, tmp_path / "config.toml")
    check_worker(tmp_path)
    report = CheckReport.load(tmp_path / REPORT)
    assert (report.rule, report.steps, report.failures) == (name, 3, [])
    assert all(parameter.value.tolerance > 0 for parameter in report.parameters)


def test_a_check_of_a_run_that_rounding_decides_says_so(tmp_path):
    config = RunConfig(task="digits", steps=6, optim=OptimSettings("lbfgs", lr=1.0))
    write_config(config, tmp_path / "config.toml")
    with pytest.raises(Diverged, match="there is nothing to compare with"):
        check_worker(tmp_path)
