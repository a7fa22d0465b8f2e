"""One slow worker, in a short form."""

import json

import pytest

from adamesh.bench.options import AsyncOptions
from adamesh.bench.speeds import bench_async
from adamesh.errors import ConfigurationError


@pytest.mark.soak
def test_a_slow_worker_slows_every_step_and_not_pushes(tmp_path):
    options = AsyncOptions(staleness=(0, 1000), nproc=2, slow=6, step_ms=20, samples=1500, seeds=1, out=tmp_path)
    result = bench_async(options)
    together, strict, loose = (result.paces[name] for name in ("every-step", "async-0", "async-1000"))
    assert loose.accepted_per_s > together.accepted_per_s
    assert loose.accepted_shares == [1.0, 1.0]
    assert strict.accepted_shares[1] < 0.5  # the slow one is never the first to come
    assert json.loads((tmp_path / "async.json").read_text())["bench"] == "async"


@pytest.mark.parametrize("options", [{"staleness": ()}, {"slow": 0.5}, {"nproc": 1}, {"samples": 0}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError, match=f"--{next(iter(options))}"):
        AsyncOptions(**options)
