"""How a command line and a configuration file become one configuration."""

import pytest

from adamesh.cli.train import configuration
from adamesh.errors import ConfigurationError
from adamesh.train.settings import RunConfig


@pytest.fixture
def file(tmp_path):
    """A configuration file that changes three settings."""
    path = tmp_path / "run.toml"
    path.write_text('task = "regression"\nsteps = 2000\n[optim]\nlr = 0.5\n')
    return str(path)


def test_nothing_said_means_digits_on_two_workers():
    config = configuration([])
    assert config == RunConfig()
    assert (config.task, config.nproc) == ("digits", 2)


def test_options_are_taken_with_dashes_underscores_and_equal_signs():
    config = configuration(["regression", "--batch_size", "8", "--optim.weight-decay=0.1", "--plan.no-overlap"])
    assert (config.task, config.batch_size) == ("regression", 8)
    assert (config.optim.weight_decay, config.plan.overlap) == (0.1, False)


def test_the_task_may_stand_after_the_options():
    assert configuration(["--steps", "3", "my_task.py"]).task == "my_task.py"


def test_a_file_gives_the_defaults_and_options_override_it(file):
    config = configuration([file, "--optim.lr", "0.25", "--nproc", "4"])
    assert (config.task, config.steps) == ("regression", 2000)
    assert (config.optim.lr, config.nproc) == (0.25, 4)


def test_epochs_asked_for_replace_steps_in_the_file(file):
    config = configuration([file, "--epochs", "3"])
    assert (config.steps, config.epochs) == (None, 3)


def test_an_option_that_fits_only_what_the_file_says_is_taken(tmp_path):
    file = tmp_path / "guarded.toml"
    file.write_text('task = "digits"\n[plan]\nguard = true\n')
    assert configuration([str(file), "--guard.threshold", "24"]).guard.threshold == 24
    with pytest.raises(ConfigurationError, match="guard"):
        configuration(["--guard.threshold", "24"])
    with pytest.raises(ConfigurationError, match="guard"):
        configuration(["--guard.threshold", "24", "--data", str(file)])
