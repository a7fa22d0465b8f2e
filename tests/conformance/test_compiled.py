"""Compiled codecs do what their eager forms do, to the bit; and where nothing can be compiled, the eager forms do."""

import math
import os
import shutil
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import adamesh
from adamesh.codecs import compiled as module
from adamesh.codecs.base import Codec, Stream
from adamesh.codecs.blocks import BlockCodec
from adamesh.codecs.compiled import Compiled, compiled
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.engine import kernels
from adamesh.engine.kernels import LEAST_ELEMENTS, compiled_codecs
from adamesh.errors import CannotCompile
from tests.wire.world import CODECS, alike, both_ways

F32, F64 = torch.float32, torch.float64
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="no compiler")
FORMS = [name for name, codec in CODECS.items() if isinstance(codec, BlockCodec) and codec.compiles]


def bits(x: Tensor) -> Tensor:
    return torch.where(x.isnan(), torch.nan, x).view(torch.uint8)


def both(codec: Codec, form: Codec, x_RN: Tensor, dtype: torch.dtype, stream: Stream) -> None:
    """Both forms write the same bytes, and read them as the same numbers."""
    payloads = [torch.zeros(len(x_RN), codec.payload_bytes(x_RN.shape[1]), dtype=torch.uint8) for _ in range(2)]
    found = [torch.zeros(x_RN.shape, dtype=dtype) for _ in range(2)]
    for one, payload_RB, out_RN in zip((codec, form), payloads, found, strict=True):
        one.encode(x_RN, payload_RB, stream)
        one.decode(payload_RB, out_RN)
    assert torch.equal(*payloads)
    assert torch.equal(*map(bits, found))


@pytest.fixture(scope="module")
def forms() -> dict[str, Codec]:
    """All codecs that compile; one of them also decodes to float64."""
    return {name: compiled(CODECS[name], {F32, F64} if name == "int4" else {F32}) for name in FORMS}


def test_all_codecs_with_scales_compile():
    assert FORMS == ["int8", "int4", "int4-256-stochastic", "int2", "sign"]


@needs_compiler
@pytest.mark.timeout(300)  # the first time on a machine
@pytest.mark.parametrize("name", FORMS)
@given(
    rows=st.integers(1, 3),
    blocks=st.integers(0, 40),
    seed=st.integers(0, 99),
    exponent=st.integers(-46, 38),
    dtype=st.sampled_from([F32, F64, torch.bfloat16, torch.float16]),
    special=st.sampled_from([None, 0.0, -0.0, math.nan, math.inf, -math.inf, 1e-39, 3.4e38]),
)
@settings(max_examples=30)
def test_compiled_and_eager_are_the_same_to_the_bit(forms, name, rows, blocks, seed, exponent, dtype, special):
    codec = CODECS[name]
    generator = torch.Generator().manual_seed(seed)
    x_RN = torch.randn(rows, blocks * codec.grain, generator=generator, dtype=F64) ** 3 * 10.0**exponent
    if special is not None and blocks:
        x_RN[seed % rows, seed % x_RN.shape[1]] = special
        x_RN[0, : codec.grain : 1 + seed % 3] = special
    both(codec, forms[name], x_RN.to(dtype), F64 if seed % 2 else F32, Stream(seed, 4 * seed))


@needs_compiler
@pytest.mark.timeout(300)
def test_whatever_surrounds_a_call_it_is_not_compiled_again(forms, monkeypatch):
    frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    x_RN = torch.randn(2, 640)
    threads = torch.get_num_threads()
    surroundings: list[Any] = [
        torch.enable_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.no_grad(),
    ]
    try:
        for surrounding in surroundings:
            with surrounding:
                both(CODECS["int8"], forms["int8"], x_RN, F32, Stream(0))
        torch.set_num_threads(threads + 1)
        other = threading.Thread(target=both, args=(CODECS["int8"], forms["int8"], x_RN, F32, Stream(0)))
        other.start()
        other.join()
    finally:
        torch.set_num_threads(threads)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == frames


@needs_compiler
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["int8", "int4", "sign"])
def test_a_worker_that_compiles_and_one_that_does_not_keep_the_same_parameters(name):
    wire = both_ways(CODECS[name])

    def law(mesh: Mesh, which: set[int]):
        plan = adamesh.Plan(mesh=mesh, wire=wire, bucket_mb=1e-3, compile=mesh.world.rank in which)
        model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 7))
        for p in model.parameters():
            nn.init.normal_(p.data, generator=torch.Generator().manual_seed(1))
        optimizer = adamesh.AdamW(model.parameters(), lr=1e-2, plan=plan)
        for step in range(4):
            optimizer.zero_grad()
            x = torch.randn(8, 40, generator=torch.Generator().manual_seed(10 * step + mesh.world.rank))
            model(x).square().mean().backward()
            optimizer.step()
        return {key: p.detach().clone() for key, p in model.named_parameters()}

    mixed, everybody, nobody = (ThreadWorld(2, 2).run(law, which) for which in ({0, 3}, {0, 1, 2, 3}, set()))
    assert all(alike(mixed[0], other) for other in (*mixed, *everybody, *nobody))


def test_small_models_other_devices_and_impatient_plans_are_left_eager(monkeypatch):
    monkeypatch.setattr(kernels, "compiled", lambda codec, decoded: (codec, decoded))
    wire = adamesh.Wire(up=adamesh.Int8(), down=adamesh.Int4())
    large, small, frozen = (nn.Parameter(torch.empty(n, device="cpu")) for n in (LEAST_ELEMENTS, 9, LEAST_ELEMENTS))
    frozen.requires_grad_(False)
    everything: dict[Any, Any] = {adamesh.Int8(): (adamesh.Int8(), {F32}), adamesh.Int4(): (adamesh.Int4(), {F32})}
    assert compiled_codecs(adamesh.Plan(wire=wire), [large]) == everything
    assert compiled_codecs(adamesh.Plan(wire=wire, compile=True), [small]) == everything
    for plan, params in [
        (adamesh.Plan(wire=wire), [small, frozen]),
        (adamesh.Plan(wire=wire), [nn.Parameter(torch.empty(LEAST_ELEMENTS, device="meta"))]),
        (adamesh.Plan(wire=wire, timeout_s=5), [large]),
        (adamesh.Plan(wire=wire, compile=False), [large]),
        (adamesh.Plan(compile=True), [large]),
    ]:
        assert compiled_codecs(plan, params) == {}


WITHOUT_COMPILER = """
import torch, adamesh
from torch import nn

for compiling in (False, True, True):
    model = nn.Linear(64, 64)
    nn.init.ones_(model.weight), nn.init.ones_(model.bias)
    plan = adamesh.Plan(wire=adamesh.Wire(up=adamesh.Int8()), compile=compiling)
    optimizer = adamesh.AdamW(model.parameters(), plan=plan)
    model(torch.linspace(-1, 1, 64)).square().sum().backward()
    optimizer.step()
    print(model.weight.double().sum().item())
"""


def test_without_a_compiler_everything_is_eager_and_said_once(tmp_path):
    variables = {"CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, env=os.environ | variables, check=True
    )
    assert len(set(done.stdout.split())) == 1
    assert len(done.stdout.split()) == 3
    assert done.stderr.count("codecs are not compiled, and cost more time") == 1


def test_a_kernel_that_differs_in_a_bit_is_not_used(monkeypatch):
    monkeypatch.setattr(module, "_SHELF", module._Shelf())
    monkeypatch.setattr(module, "_trace", lambda *given: None)

    def off(codec: BlockCodec, way: str):
        def encode(x_KB: Tensor, noise_KB: Tensor | None, *parts: Tensor) -> None:
            codec.encode_blocks(x_KB, parts, noise_KB)
            parts[0][3, 5] ^= 1

        return encode

    monkeypatch.setattr(module, "_traced", off)
    with pytest.raises(CannotCompile, match="differs from the eager form in some bits"):
        compiled(adamesh.Int8(), {F32})


def test_a_codec_that_gains_nothing_stays_itself():
    assert compiled(CODECS["topk"], {F32}) is CODECS["topk"]
    assert not isinstance(compiled(CODECS["bf16"], {F32}), Compiled)
