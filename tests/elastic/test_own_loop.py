"""A loop of one's own, in processes that somebody else has started, goes on as if nothing had happened."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]

import adamesh
from adamesh.company.founding import founding_store
from adamesh.company.members import read_members
from adamesh.data.ledger import expected
from adamesh.data.sampler import GlobalSampler
from adamesh.errors import ConfigurationError, PeerLost, QuorumLost, StateLost
from tests.elastic.own_loop import BATCH, EPOCHS, NEVER, SAMPLES, SEED, data, lr_at, model_of

PROGRAM = Path(__file__).with_name("own_loop.py")


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    base = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "ADAMESH_TOKEN")}
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.Popen(
        command, env={**base, "OMP_NUM_THREADS": "1", **environment}, stderr=subprocess.PIPE, text=True
    )


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def undisturbed(sampler: GlobalSampler) -> dict[str, torch.Tensor]:
    """What torch's own AdamW makes of the same batches."""
    (x, y), model = data(), model_of(0, founder=True)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(EPOCHS * sampler.steps_per_epoch):
        batch = sampler.global_batch(step)
        optimizer.param_groups[0]["lr"] = lr_at(step)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[batch]), y[batch]).backward()
        optimizer.step()
    return dict(model.named_parameters())


@pytest.mark.timeout(240)  # four processes, each of which loads torch, beside other tests
def test_one_of_three_is_killed_and_another_joins_and_all_ends_as_if_nothing_had_happened(tmp_path):
    founders = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "ADAMESH_TOKEN": "secret"}
    workers = [
        start(tmp_path, tmp_path / f"{rank}.json", 7 if rank == 0 else NEVER, 15, RANK=str(rank), **founders)
        for rank in range(3)
    ]
    try:
        workers[0].wait(100)  # the first, which hosts the store and has left word for newcomers
        workers.append(start(tmp_path, tmp_path / "3.json", ADAMESH_JOIN="1"))
        said = [worker.communicate(timeout=100)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert [worker.returncode for worker in workers] == [-9, 0, 0, 0], said
    ends = [json.loads((tmp_path / f"{number}.json").read_text()) for number in (1, 2, 3)]
    sampler = GlobalSampler(SAMPLES, BATCH, SEED)
    assert ends[0]["values"] == ends[1]["values"] == ends[2]["values"]
    assert ends[0]["sizes"][:8] == [3] * 7 + [2]
    assert ends[2]["sizes"][-1] == 3
    assert ends[0]["values"]["1.running_mean"][0] == 0.25
    assert ends[0]["ledger"] == ends[1]["ledger"] == expected(sampler, EPOCHS * sampler.steps_per_epoch).saved()
    for name, value in undisturbed(sampler).items():
        assert torch.allclose(torch.tensor(ends[0]["values"][name], dtype=value.dtype), value, rtol=1e-9, atol=1e-12)


class Losing:
    """An optimizer whose workers are lost again while it regroups."""

    def __init__(self, *fates: BaseException | None) -> None:
        self.fates = list(fates)
        self.reasons: list[str] = []

    def regroup(self, reason: str) -> None:
        self.reasons.append(reason)
        fate = self.fates.pop(0)
        if fate is not None:
            raise fate


def test_another_loss_while_those_who_are_left_regroup_is_survived_too():
    optimizer = Losing(PeerLost("second"), None)
    with adamesh.surviving(optimizer):  # type: ignore[arg-type]
        raise PeerLost("first")
    assert optimizer.reasons == ["first", "second"]


def test_what_nobody_holds_any_more_is_loaded_and_a_loss_meanwhile_is_survived():
    optimizer, loads = Losing(StateLost("gone"), None), [PeerLost("in load"), None]

    def load() -> None:
        loss = loads.pop(0)
        if loss is not None:
            raise loss

    with adamesh.surviving(optimizer, load):  # type: ignore[arg-type]
        raise PeerLost("first")
    assert optimizer.reasons == ["first", "in load"]
    assert loads == [None]


@pytest.mark.parametrize("end", [StateLost("gone"), QuorumLost("few"), adamesh.Expelled("out"), ValueError("own")])
def test_what_cannot_be_survived_is_raised(end):
    with pytest.raises(type(end), match=str(end)), adamesh.surviving(Losing(end)):  # type: ignore[arg-type]
        raise PeerLost("first") if not isinstance(end, ValueError) else end


def test_a_worker_that_begins_alone_leaves_word_for_newcomers(tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "ADAMESH_JOIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ADAMESH_TOKEN", "secret")
    workers = adamesh.elastic(tmp_path / "new")
    known = read_members(tmp_path / "new")
    workers.close()
    assert known is not None
    assert (known.token, known.epoch) == ("secret", 0)
    assert list(known.addresses) == [(member.host, member.port) for member in workers.members]


@pytest.mark.parametrize(
    ("folder", "environment", "said"),
    [
        (None, {}, "ADAMESH_TOKEN is not set"),
        (None, {"ADAMESH_JOIN": "1"}, "no folder"),
        ("here", {"ADAMESH_JOIN": "1"}, r"no members\.json"),
        (None, {"ADAMESH_JOIN": "host", "ADAMESH_TOKEN": "secret"}, "'host' is no address"),
        (None, {"WORLD_SIZE": "2", "RANK": "0", "ADAMESH_TOKEN": "secret"}, "MASTER_PORT is not set"),
    ],
)
def test_an_environment_that_says_too_little_is_refused_with_what_to_set(
    tmp_path, monkeypatch, folder, environment, said
):
    for name in ("ADAMESH_TOKEN", "ADAMESH_JOIN", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=said):
        adamesh.elastic(folder and tmp_path / folder)


def test_the_first_founder_may_serve_a_store_at_the_meeting_place_already():
    port = int(free_port())
    there = TCPStore("127.0.0.1", port, 2, is_master=True, wait_for_workers=False, multi_tenant=True)
    there.set("folder", "run")
    assert founding_store("127.0.0.1", port, 0, 2, 10.0).get("folder") == b"run"
