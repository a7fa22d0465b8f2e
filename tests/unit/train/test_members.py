"""The secret that the machines of a run share."""

import pytest

from adamesh.errors import ConfigurationError
from adamesh.train import members
from adamesh.train.members import shared_token


def test_all_machines_of_a_run_have_the_token_that_the_first_one_made(tmp_path):
    token = shared_token(tmp_path, makes=True)
    assert len(token) == 32
    assert shared_token(tmp_path, makes=False) == shared_token(tmp_path, makes=True) == token
    assert (tmp_path / "token").stat().st_mode & 0o077 == 0


def test_a_machine_that_does_not_see_the_folder_of_the_first_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "_AWAIT_S", 0.0)
    with pytest.raises(ConfigurationError, match="machine 0 has not begun"):
        shared_token(tmp_path, makes=False)
