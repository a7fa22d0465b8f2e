"""Steps over links: what is hidden costs nothing, what is not costs what it takes, and faster links never hurt."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamesh.cost.links import LOOPBACK, Link, parse_link
from adamesh.cost.network import Links, replay
from adamesh.cost.trace import Event, Trace
from adamesh.errors import ConfigurationError

FREE: dict[str, Any] = {"message_s": 0.0, "cpu_s_per_byte": 0.0}


def over(link):
    return Links(link, link)


def step(before_s, sent, hidden_s, rest_s=0.0):
    """Something leaves, is worked on top of, and waited for."""
    events = (Event("launch", before_s, 1, "world", sent, 1), Event("wait", hidden_s, 1))
    return Trace(events, rest_s)


def test_what_arrives_before_it_is_waited_for_costs_nothing():
    link = Link("l", 1e6, 1e-3, **FREE)
    timing = replay([step(0.1, 10_000, 0.02, 0.1)], over(link))
    assert timing.step_s == pytest.approx(0.22)
    assert timing.exposed_s == 0.0


def test_what_does_not_costs_the_rest_of_alpha_and_beta():
    link = Link("l", 1e6, 1e-3, **FREE)
    timing = replay([step(0.1, 50_000, 0.02, 0.1)], over(link))
    assert timing.exposed_s == pytest.approx(0.05 + 0.001 - 0.02)
    assert timing.step_s == pytest.approx(timing.work_s + timing.exposed_s)


def test_a_port_sends_one_thing_after_the_other():
    events = (*(Event("launch", 0.0, n, "world", 1000, 1) for n in (1, 2)), Event("wait", 0.0, 2))
    timing = replay([Trace(events, 0.0)], over(Link("l", 1e6, 0.0, **FREE)))
    assert timing.exposed_s == pytest.approx(2e-3)


def test_a_bucket_of_tokens_spares_a_burst_once_it_has_filled():
    trace = step(1.0, 100_000, 0.0)
    plain, bursting = (replay([trace], over(Link("l", 1e6, 0.0, burst_bytes=b, **FREE))) for b in (0, 64_000))
    assert plain.exposed_s - bursting.exposed_s == pytest.approx(0.064)


def test_a_processors_time_for_bytes_is_paid_while_waiting_or_afterwards():
    slow, busy = Link("l", 1e6, 0.0, message_s=0.0), Link("l", 1e9, 0.0, message_s=0.0, cpu_s_per_byte=1e-6)
    slow_too = Link("l", 1e6, 0.0, message_s=0.0, cpu_s_per_byte=1e-6)
    exposed = [replay([step(0.1, 50_000, 0.0)], over(link)).exposed_s for link in (slow, busy, slow_too)]
    assert exposed == pytest.approx([0.05, 0.05, 0.05])


events = st.lists(
    st.tuples(st.sampled_from(["launch", "swap"]), st.floats(0, 0.01), st.integers(0, 10**6), st.floats(0, 0.01)),
    min_size=1,
    max_size=8,
)


def trace_of(drawn):
    made = []
    for number, (kind, work_s, sent, hidden_s) in enumerate(drawn):
        made.append(Event(kind, work_s, number, "world", sent, 1))
        if kind == "launch":
            made.append(Event("wait", hidden_s, number))
    return Trace(tuple(made), 0.001)


@given(events, st.floats(1e4, 1e9), st.floats(1.0, 100.0), st.floats(0, 0.1))
def test_a_faster_link_is_never_slower_and_none_beats_work_alone(drawn, rate, times, latency):
    trace = trace_of(drawn)
    slow, fast = (replay([trace], over(Link("l", r, latency))) for r in (rate, rate * times))
    assert fast.step_s <= slow.step_s * (1 + 1e-9)
    assert fast.step_s >= trace.work_s * (1 - 1e-9)


@given(events, st.floats(1e4, 1e9), st.floats(0, 0.1), st.floats(0, 0.1))
def test_less_latency_is_never_slower(drawn, rate, latency, more):
    trace = trace_of(drawn)
    near, far = (replay([trace], over(Link("l", rate, late))) for late in (latency, latency + more))
    assert near.step_s <= far.step_s * (1 + 1e-9)


def test_links_are_read_as_they_are_written():
    assert parse_link("100mbit").bytes_per_s == pytest.approx(12.5e6 * 1448 / 1514)
    assert parse_link("10gbit/20ms").latency_s == pytest.approx(0.02)
    assert parse_link("100mbit+64kb").burst_bytes == 64_000
    assert parse_link("loopback") is LOOPBACK


@pytest.mark.parametrize("text", ["", "fast", "100", "0mbit", "100mb", "-1gbit", "1gbit/20"])
def test_what_is_no_link_is_refused_with_an_example(text):
    with pytest.raises(ConfigurationError, match="100mbit/20ms"):
        parse_link(text)
