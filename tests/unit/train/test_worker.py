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


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")


def config(**settings):
    return RunConfig(task="regression", **settings)


def test_workers_share_no_gpu_unasked(one_gpu):
    assert choose_device(config()).type == "cpu"
    assert choose_device(config(backend="gloo")).type == "cpu"
    with pytest.raises(ConfigurationError, match="2 workers on this machine need as many GPUs, and it has 1"):
        choose_device(config(device="cuda"))


@pytest.mark.parametrize("how", [{"backend": "gloo"}, {"elastic": "1:4"}], ids=str)
def test_workers_that_talk_by_the_host_may_share_a_gpu(one_gpu, how):
    assert choose_device(config(device="cuda", **how)) == torch.device("cuda", 0)


@pytest.mark.parametrize("asked", [{"device": "cuda", "backend": "gloo"}, {"backend": "nccl"}], ids=str)
def test_a_gpu_that_is_not_there_is_asked_for_in_vain(monkeypatch, asked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="need as many GPUs, and it has 0; leave it out"):
        choose_device(config(**asked))


def test_who_joins_alone_is_where_the_founders_are(one_gpu, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert choose_device(config(elastic="1:4", nproc=2)).type == "cpu"
    assert choose_device(config(elastic="1:4", nproc=1)).type == "cuda"


@pytest.mark.parametrize("wrong", [{"device": "cpu"}, {"elastic": "1:2"}], ids=str)
def test_nccl_is_refused_where_it_moves_nothing(wrong):
    with pytest.raises(ConfigurationError, match="backend = 'nccl'"):
        config(backend="nccl", **wrong)


def test_a_batch_that_is_smaller_than_the_workers_is_refused_before_they_meet(tmp_path, monkeypatch):
    write_config(RunConfig(task="regression", batch_size=2), tmp_path / "config.toml")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigurationError, match="too small for 3 workers"):
        main([str(tmp_path)])
