"""What is accepted, what is rejected, and what a worker has afterwards."""

import threading
import time

import pytest
import torch

import adamesh
from tests.pushing.world import Pusher, among


@pytest.mark.parametrize("staleness", [0, 1, 3])
@pytest.mark.parametrize("beyond", [0, 1])
def test_a_push_is_accepted_up_to_the_staleness_and_no_further(staleness, beyond):
    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(staleness))
        if mesh.world.rank == 1:
            worker.backward(100.0)
        worker.turns([0] * (staleness + beyond))
        if mesh.world.rank == 1:
            worker.step()
        worker.optimizer.flush()
        return worker.values, worker.pushes

    (values, _), (_, pushes) = among(2, law)
    accepted = beyond == 0
    assert bool((values == -(staleness + beyond) - 100.0 * accepted).all())
    assert pushes.accepted_share == float(accepted)
    assert pushes.staleness == {staleness + beyond: pushes.accepted + pushes.stale}


def test_a_rejected_worker_has_the_newest_parameters_and_is_accepted_next():
    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(staleness=0))
        if mesh.world.rank == 1:
            worker.backward(100.0)
        worker.turns([0, 0])
        found = []
        if mesh.world.rank == 1:
            worker.step()
            found.append(worker.values)
            worker.step(1.0)
            found.append(worker.values)
        worker.optimizer.flush()
        return found

    _, (refreshed, stepped) = among(2, law)
    assert bool((refreshed == -2.0).all())
    assert bool((stepped == -3.0).all())


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("outstanding", [0, 1, 2])
def test_no_accepted_push_is_lost_and_all_replicas_end_alike(num_ranks, outstanding):
    num_steps = 15

    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(staleness=1000, outstanding=outstanding))
        for _ in range(num_steps):
            worker.step(1.0)
        worker.optimizer.flush()
        return worker.values

    for values in among(num_ranks, law):
        assert bool((values == -num_steps * num_ranks).all())


def test_the_histogram_counts_every_chunk_that_was_judged():
    num_steps = 20

    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(staleness=1))
        for _ in range(num_steps):
            worker.step(1.0)
        worker.optimizer.flush()
        return worker.values, worker.pushes

    results = among(3, law)
    for _, pushes in results:
        assert sum(pushes.staleness.values()) == pushes.accepted + pushes.stale
        assert sum(count for far, count in pushes.staleness.items() if far > 1) == pushes.stale
    # Each accepted push of a chunk has moved it by one; chunks that hold padding only are never judged.
    judged = {pushes.accepted + pushes.stale for _, pushes in results}
    assert len(judged) == 1
    assert judged.pop() % num_steps == 0


def test_a_pulled_chunk_is_of_one_version_whole():
    torn = threading.Event()

    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(staleness=1000))
        for _ in range(40):
            worker.step(1.0)
            for bucket in worker.optimizer.engine.buckets:
                for rank in range(mesh.world.size):
                    start, stop = bucket.place.shard_range(rank, mesh.world.size)
                    for slot in bucket.place.slots:
                        piece = bucket.param_N[max(start, slot.start) : min(stop, slot.stop)]
                        if piece.numel() and piece.min() != piece.max():
                            torn.set()
        worker.optimizer.flush()

    among(4, law)
    assert not torn.is_set()


@pytest.mark.parametrize("up", [None, adamesh.Int8(), adamesh.Feedback(adamesh.Int4())], ids=str)
def test_a_gradient_that_is_not_finite_is_rejected_and_counted(up):
    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(), up)
        worker.turns([0, 1])
        worker.turns([1], gradient=float("nan"))
        share = worker.pushes.accepted_share
        worker.turns([0, 1])
        worker.optimizer.flush()
        return worker.values, worker.pushes, share

    (values, _, _), (_, pushes, share) = among(2, law)
    assert float((values + 4.0).abs().max()) <= (0.0 if up is None else 0.04)  # what four codings may be off by
    assert pushes.non_finite > 0
    assert pushes.stale == 0
    assert share == 0.0


def test_the_learning_rate_is_that_of_the_worker_that_pushes():
    def law(mesh):
        worker = Pusher(mesh, adamesh.Async())
        worker.optimizer.param_groups[0]["lr"] = 1.0 + mesh.world.rank
        worker.turns([0, 1, 1])
        worker.optimizer.flush()
        return worker.values

    for values in among(2, law):
        assert bool((values == -5.0).all())


def test_delay_compensation_adds_what_the_slice_moved_since_its_worker_read_it():
    factor, order = 0.25, [(0, 1.0), (1, 1.0), (0, 1.0), (0, 1.0), (1, 2.0)]

    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(compensation=factor))
        for rank, gradient in order:
            worker.turns([rank], gradient)
        worker.optimizer.flush()
        return worker.values

    value, reads = 0.0, [0.0, 0.0]
    for rank, gradient in order:
        value -= gradient + factor * gradient**2 * (value - reads[rank])
        reads[rank] = value
    for values in among(2, law):
        assert torch.equal(values, torch.full_like(values, value))


def test_a_lead_over_the_slowest_is_bounded_where_it_is_asked_for():
    made = [0, 0]
    leads: list[int] = []

    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(staleness=1000, max_lead=2))
        for _ in range(10):
            time.sleep(0.01 * mesh.world.rank)
            worker.step(1.0)
            made[mesh.world.rank] += 1
            leads.append(made[0] - made[1])
        worker.optimizer.flush()

    among(2, law)
    # A step begins while the slow worker is at most 2 behind, and it may be counted before that one's own.
    assert 1 <= max(leads) <= 2 + 2


def test_a_finished_worker_is_not_waited_for_where_leads_are_bounded():
    def law(mesh):
        worker = Pusher(mesh, adamesh.Async(staleness=1000, max_lead=1))
        for _ in range(1 if mesh.world.rank == 1 else 10):
            worker.step(1.0)
        worker.optimizer.flush()
        return worker.values

    for values in among(2, law):
        assert bool((values == -11.0).all())
