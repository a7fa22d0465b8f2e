"""What low rank holds back, in a short form."""

import json

import pytest

from adamesh.bench.options import ResidualOptions
from adamesh.bench.residual import bench_residual
from adamesh.errors import ConfigurationError


@pytest.mark.soak
def test_ours_stays_bounded_where_torchs_grows_with_every_step(tmp_path):
    norms = bench_residual(ResidualOptions(steps=200, out=tmp_path))
    marks = json.loads((tmp_path / "residual.json").read_text())["trial"]["marks"]
    late = [index for index, mark in enumerate(marks) if mark >= 40]
    first, last = late[0], late[-1]
    stretch = marks[last] / marks[first]
    assert norms["torch"][last] / norms["torch"][first] > 0.8 * stretch
    assert norms["adamesh"][last] < norms["torch"][last] / 3


@pytest.mark.parametrize("options", [{"rank": 12}, {"rank": 0}, {"nproc": 1}, {"steps": 3}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError, match=f"--{next(iter(options))}"):
        ResidualOptions(**options)
