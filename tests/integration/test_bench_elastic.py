"""Workers killed in one session, in a short form."""

import pytest

from adamesh.bench.elastic import bench_elastic, p99
from adamesh.bench.options import ElasticOptions
from adamesh.errors import ConfigurationError


def test_who_is_killed_and_replaced_leaves_no_trace_in_the_parameters(tmp_path):
    result = bench_elastic(ElasticOptions(times=2, nproc=3, dtype="float64", out=tmp_path))
    assert result.lost_nothing
    assert result.difference is not None
    assert result.difference < 1e-12
    assert all(loss.recovery_s > 0 for loss in result.losses)
    assert (tmp_path / "elastic.json").is_file()


def test_a_hundredth_may_be_beyond_the_99th_percentile():
    assert p99([*range(100)]) == 98
    assert p99([3.0, 1.0]) == 3.0


@pytest.mark.parametrize("options", [{"victims": 3}, {"victims": 0}, {"times": 0}, {"minutes": 0}, {"hogs": -1}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError, match=f"--{next(iter(options))}"):
        ElasticOptions(**options)


@pytest.mark.parametrize(
    ("minutes", "hogs"),
    [(0.05, 1), pytest.param(5, 4, marks=[pytest.mark.soak, pytest.mark.timeout(600)])],
    ids=["short", "five minutes"],
)
def test_nobody_is_suspected_where_nothing_happens(tmp_path, minutes, hogs):
    result = bench_elastic(ElasticOptions(fault="none", minutes=minutes, hogs=hogs, nproc=3, out=tmp_path))
    assert result.suspected == 0
    assert result.lost_nothing
    assert result.steps > 10


def test_a_worker_that_holds_its_interpreters_lock_is_gone_on_without(tmp_path):
    result = bench_elastic(ElasticOptions(fault="gil", times=1, nproc=3, out=tmp_path))
    assert result.lost_nothing
    assert result.losses[0].recovery_s > 0.4
