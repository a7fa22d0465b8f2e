"""Workers that finish early, come to rest together, or are lost."""

import os
import signal
import time

import pytest
import torch

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.process_group import process_mesh
from adamesh.comm.threads import Drop, Kill
from adamesh.errors import CheckpointError, CommunicationTimeout, ParameterError, PeerLost
from tests.process_pool import ProcessPool, WorkerDied
from tests.pushing.world import Pusher, among


def push_on(worker: Pusher) -> None:
    for _ in range(1000):
        worker.step(1.0)


def uneven(mesh: Mesh) -> torch.Tensor:
    """Each rank makes another number of steps, and the last one is slow."""
    worker = Pusher(mesh, adamesh.Async(staleness=1000))
    for _ in range(5 * (mesh.world.rank + 1)):
        if mesh.world.rank == mesh.world.size - 1:
            time.sleep(0.002)
        worker.step(1.0)
    worker.optimizer.flush()
    return worker.values


def test_a_finished_workers_slices_go_on_being_served():
    for values in among(3, uneven):
        assert bool((values == -(5.0 + 10.0 + 15.0)).all())


def in_process() -> torch.Tensor:
    return uneven(process_mesh(None, torch.device("cpu"), timeout_s=20.0))


def test_processes_push_over_gloo_and_end_alike(pool: ProcessPool):
    for values in pool.run(3, in_process):
        assert bool((values == -30.0).all())


def lost_in_process() -> str:
    mesh = process_mesh(None, torch.device("cpu"), timeout_s=20.0)
    worker = Pusher(mesh, adamesh.Async(staleness=1000))
    for step in range(1000):
        if mesh.world.rank == 1 and step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            worker.step(1.0)
        except PeerLost as error:
            return str(error)
    return "nothing was missed"


def test_a_lost_process_is_missed_at_the_next_push_to_it(pool: ProcessPool):
    first, lost, third = pool.run(3, lost_in_process, return_exceptions=True)
    assert isinstance(lost, WorkerDied)
    for said in (first, third):
        assert "load the last checkpoint" in said


def test_training_goes_on_after_a_rest_and_pushes_meet_services_that_open_again():
    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(staleness=1000))
        for round_number in range(4):
            for _ in range(3):
                worker.step(1.0)
            worker.optimizer.flush()
            assert bool((worker.values == -3.0 * mesh.world.size * (round_number + 1)).all())
            worker.optimizer.flush()  # nothing to do
        return worker.pushes.staleness

    among(3, law)


@pytest.mark.parametrize("outstanding", [0, 1])
def test_a_worker_that_dies_is_missed_and_nobody_goes_on(outstanding):
    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(staleness=1000, outstanding=outstanding))
        if mesh.world.rank == 1:
            worker.step(1.0)
            raise ZeroDivisionError("as planned")
        with pytest.raises(PeerLost) as lost:
            push_on(worker)
        for call in (worker.optimizer.step, worker.optimizer.flush):
            with pytest.raises(PeerLost) as again:
                call()
            assert str(again.value) == str(lost.value)
        return "missed"

    first, _, third = among(3, law, return_exceptions=True)
    assert (first, third) == ("missed", "missed")


def test_a_worker_that_dies_while_others_rest_is_missed_by_them():
    def law(mesh):
        worker = Pusher(mesh, adamesh.Async())
        if mesh.world.rank == 1:
            raise ZeroDivisionError("as planned")
        # The one that died, or the other one, which missed it first and ended.
        with pytest.raises(PeerLost, match=rf"rank [{'12' if mesh.world.rank == 0 else '01'}] (has )?ended"):
            worker.optimizer.flush()
        return "missed"

    assert among(3, law, return_exceptions=True)[::2] == ["missed", "missed"]


def test_a_letter_that_is_lost_is_a_timeout():
    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(staleness=1000))
        for _ in range(3):
            worker.step(1.0)
        worker.optimizer.flush()

    operations = []

    def counted(mesh):
        worker = Pusher(mesh, adamesh.Async(staleness=1000))
        operations.append(mesh.world._hub.num_operations[mesh.world.rank])
        worker.optimizer.flush()

    among(2, counted)
    results = among(2, law, faults=[Drop(0, max(operations))], timeout_s=0.5, return_exceptions=True)
    assert isinstance(results[0], CommunicationTimeout)
    killed, missed = among(2, law, faults=[Kill(0, max(operations))], return_exceptions=True)
    assert type(killed).__name__ == "WorkerKilled"
    assert isinstance(missed, PeerLost)


def test_state_is_refused_while_workers_push_and_given_at_rest():
    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(), build=adamesh.AdamW)
        worker.step(1.0)
        with pytest.raises(CheckpointError, match=r"flush\(\)"):
            worker.optimizer.state_dict()
        worker.optimizer.flush()
        state = worker.optimizer.state_dict()
        worker.wait()
        worker.optimizer.load_state_dict(state)
        return state["state"]["param"]["step"]

    assert among(2, law) == [2, 2]


def test_a_parameter_changed_from_outside_is_refused_before_anything_is_sent():
    def law(mesh):
        worker = Pusher(mesh, adamesh.Async())
        worker.turns([0])
        if mesh.world.rank == 0:
            with torch.no_grad():
                worker.param.add_(1.0)
            with pytest.raises(ParameterError, match="'param'"):
                worker.step(1.0)
        with pytest.raises(ParameterError, match="'param'"):
            worker.optimizer.flush()

    among(2, law)


def test_a_group_added_later_is_pushed_too():
    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(staleness=1000))
        worker.step(1.0)
        late = torch.nn.Parameter(torch.zeros(90))
        worker.optimizer.add_param_group({"params": [late], "param_names": ["late"], "lr": 2.0})
        late.sum().backward()
        worker.optimizer.step()
        worker.optimizer.flush()
        return late.detach(), worker.values

    for late, values in among(2, law):
        assert bool((late == -4.0).all())
        assert bool((values == -4.0).all())


def test_a_frozen_parameter_that_is_freed_later_is_pushed_by_whoever_uses_it():
    def law(mesh):
        free, frozen = torch.nn.Parameter(torch.zeros(200)), torch.nn.Parameter(torch.zeros(200), requires_grad=False)
        plan = adamesh.Plan(mesh=mesh, sync=adamesh.Async(staleness=1000))
        optimizer = adamesh.SGD([free, frozen], lr=1.0, plan=plan)
        for step in range(4):
            frozen.requires_grad_(step >= 2 and mesh.world.rank == 0)
            optimizer.zero_grad()
            (free.sum() + frozen.sum()).backward()
            optimizer.step()
        optimizer.flush()
        return free.detach(), frozen.detach()

    for free, frozen in among(2, law):
        assert bool((free == -8.0).all())
        assert bool((frozen == -2.0).all())
