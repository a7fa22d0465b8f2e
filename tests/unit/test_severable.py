"""A cut communicator lets go whoever waits in it, even if what it waits for never ends."""

import threading
from collections.abc import Callable

import pytest
import torch

from adamesh.comm.base import Work
from adamesh.comm.local import LocalCommunicator
from adamesh.comm.severable import Severable
from adamesh.errors import CommunicationTimeout, PeerLost


class Blocked(Work):
    """Waits for a peer that never answers."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def wait(self) -> None:
        self.begun.set()
        threading.Event().wait()


class Failing(Work):
    def wait(self) -> None:
        raise CommunicationTimeout("too late")


class Stuck(LocalCommunicator):
    """One whose collectives are a given work."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def all_gather(self, buffer_N: torch.Tensor) -> Work:
        return self.work


def severable(work: Work, waits: Callable[[bool], None] = lambda waits: None) -> tuple[Severable, list[str]]:
    cuts: list[str] = []
    return Severable(Stuck(work), lambda: cuts.append("cut"), waits), cuts


def test_whoever_waits_is_let_go_when_it_is_cut():
    work = Blocked()
    waits: list[bool] = []
    comm, cuts = severable(work, waits.append)

    def cut() -> None:
        work.begun.wait()
        comm.sever("a worker is lost")

    threading.Thread(target=cut).start()
    with pytest.raises(PeerLost, match="a worker is lost"):
        comm.all_gather(torch.zeros(1)).wait()
    assert cuts == ["cut"]
    assert waits == [True, False]


def test_whatever_is_begun_after_the_cut_is_refused_and_a_second_cut_does_nothing():
    comm, cuts = severable(Blocked())
    work = comm.all_gather(torch.zeros(1))
    comm.sever("a worker is lost")
    comm.sever("another reason")
    assert cuts == ["cut"]
    for operation in (work.wait, lambda: comm.swap(b"x"), lambda: comm.broadcast(torch.zeros(1), 0)):
        with pytest.raises(PeerLost, match="a worker is lost"):
            operation()


def test_errors_of_the_inner_communicator_pass_as_they_are():
    comm, _ = severable(Failing())
    with pytest.raises(CommunicationTimeout, match="too late"):
        comm.all_gather(torch.zeros(1)).wait()
    assert comm.swap(b"x") == [b"x"]
