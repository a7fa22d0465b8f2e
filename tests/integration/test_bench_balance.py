"""One slow worker and shares by speed, in a short form."""

import json

import pytest

from adamesh.bench.balance import bench_balance, steps_to_adapt
from adamesh.bench.options import BalanceOptions
from adamesh.errors import ConfigurationError


@pytest.mark.soak
def test_shares_by_speed_are_faster_than_equal_ones(tmp_path):
    result = bench_balance(BalanceOptions(batch_size=16, sample_ms=3, steps=12, rounds=1, out=tmp_path))
    assert result.of_sum["balanced"] > result.of_sum["equal shares"]
    assert result.shares["equal shares"] == result.shares["ddp"] == [16, 16]
    assert result.shares["balanced"][0] > 16
    assert json.loads((tmp_path / "balance.json").read_text())["bench"] == "balance"


def test_shares_have_followed_when_nobody_takes_much_longer_than_with_the_best_ones():
    assert steps_to_adapt([[32, 32, 48, 48], [32, 32, 16, 16]], [3.0, 1.0]) == 2
    assert steps_to_adapt([[32, 32], [32, 32]], [3.0, 1.0]) is None


@pytest.mark.parametrize("options", [{"slow": 0.5}, {"nproc": 1}, {"rounds": 0}, {"steps": 3}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError, match=f"--{next(iter(options))}"):
        BalanceOptions(**options)
