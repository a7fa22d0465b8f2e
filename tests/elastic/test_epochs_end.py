"""What belongs to an epoch does not stay when it is over."""

import gc
import os
import socket
import threading

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

import adamesh
from adamesh.company.members import read_members
from adamesh.company.terms import Terms
from adamesh.company.workers import Workers
from tests.elastic.crew import HOST, TOKEN

EPOCHS = 20


@pytest.fixture
def without_automatic_collection():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_automatic_collection")
def test_files_and_threads_of_past_epochs_are_given_back():
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    together = threading.Barrier(2)
    open_files: list[int] = []

    def live(rank: int) -> None:
        company = Workers.found((HOST, store.port), rank, 2, Terms(HOST, TOKEN)) if rank else founder
        for _ in range(EPOCHS):
            company.formation.world.swap(b"hello")
            together.wait(30)
            if rank == 0:
                open_files.append(len(os.listdir("/proc/self/fd")))
            together.wait(30)
            company.regroup("the test goes on")
        together.wait(30)
        company.close()

    founder: Workers
    second = threading.Thread(target=live, args=(1,), daemon=True)
    second.start()
    founder = Workers.found(store, 0, 2, Terms(HOST, TOKEN))
    live(0)
    second.join(30)
    # A group has four or more; those of one or two epochs may be about to be closed.
    assert max(open_files) <= open_files[0] + 10


def test_who_has_ended_its_part_is_not_there_to_be_joined(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAMESH_TOKEN", TOKEN)
    for name in ("RANK", "WORLD_SIZE", "ADAMESH_JOIN"):
        monkeypatch.delenv(name, raising=False)
    with adamesh.elastic(tmp_path) as workers:
        assert read_members(tmp_path) is not None
    assert read_members(tmp_path) is None
    [address] = [(member.host, member.port) for member in workers.members]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
    workers.close()
