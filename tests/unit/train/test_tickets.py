"""The counter that workers draw their samples from."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from adamesh.data.sampler import GlobalSampler
from adamesh.train.tickets import OwnCounters, Tickets
from adamesh.train.workers import GroupWorkers


class Together(GroupWorkers):
    """GroupWorkers of one process, which share counters."""

    def __init__(self, rank, size, counters):
        super().__init__(rank, size, group=None)
        self._counters = counters

    def store(self):
        return self._counters


def drawn(tickets):
    return list(iter(tickets.draw, None))


@given(size=st.integers(1, 5), done=st.integers(0, 9), more=st.integers(1, 9), data=st.data())
def test_whatever_the_speeds_every_ticket_is_drawn_once(size, done, more, data):
    counters = OwnCounters()
    workers = [Tickets(Together(rank, size, counters), done, done + more) for rank in range(size)]
    found, left = [], set(range(size))
    while left:
        rank = data.draw(st.sampled_from(sorted(left)))
        ticket = workers[rank].draw()
        if ticket is None:
            left.discard(rank)
        else:
            found.append(ticket)
    assert found == list(range(done * size, (done + more) * size))


@given(size=st.integers(1, 5), total=st.integers(1, 9), before=st.integers(0, 60), stoppers=st.integers(1, 3))
def test_a_stopped_run_ends_with_a_whole_global_batch_on_all_workers(size, total, before, stoppers):
    counters = OwnCounters()
    workers = [Tickets(Together(rank, size, counters), 0, total) for rank in range(size)]
    found = [workers[number % size].draw() for number in range(before)]
    for number in range(stoppers):
        workers[number % size].stop()
    for tickets in workers:
        found += drawn(tickets)
    made = [ticket for ticket in found if ticket is not None]
    end = min(-(-before // size), total)
    assert sorted(made) == list(range(end * size))
    assert {tickets.end_steps for tickets in workers if tickets.stopped} <= {end}
    assert all(tickets.stopped for tickets in workers) or end == total


def test_whoever_reads_where_the_run_was_stopped_waits_until_it_is_said():
    counters = OwnCounters()
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(counters.get("end")))
    reader.start()
    counters.set("end", "7")
    reader.join(10)
    assert read == [b"7"]


@given(num_samples=st.integers(1, 50), batch_size=st.integers(1, 20), steps=st.integers(0, 30))
def test_a_sampler_knows_how_many_samples_its_first_steps_take(num_samples, batch_size, steps):
    sampler = GlobalSampler(num_samples, min(batch_size, num_samples), 0)
    assert sampler.seen(steps) == sum(len(sampler.global_batch(step)) for step in range(steps))
