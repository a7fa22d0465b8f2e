import pytest
import torch

from adamesh.errors import ConfigurationError
from adamesh.train.config import RunConfig, write_config
from adamesh.train.worker import choose_device, main


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(variable, raising=False)


def test_a_process_needs_nothing_but_the_run_s_folder(tmp_path, capsys):
    write_config(RunConfig(task="regression", steps=3), tmp_path / "config.toml")
    assert main([str(tmp_path)]) == 0
    assert "generated: 8 features" in capsys.readouterr().out
    assert (tmp_path / "summary.json").exists()


def test_a_worker_started_again_after_a_failure_resumes(tmp_path, monkeypatch, capsys):
    write_config(RunConfig(task="regression", steps=3), tmp_path / "config.toml")
    main([str(tmp_path)])
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    main([str(tmp_path)])
    assert "resumed: from step-00000003 with 1 workers" in capsys.readouterr().out


def test_workers_share_no_gpu_unasked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ConfigurationError, match="2 workers on this machine need as many GPUs, and it has 1"):
        choose_device("cuda")


def test_a_batch_that_is_smaller_than_the_workers_is_refused_before_they_meet(tmp_path, monkeypatch):
    write_config(RunConfig(task="regression", batch_size=2), tmp_path / "config.toml")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigurationError, match="too small for 3 workers"):
        main([str(tmp_path)])
