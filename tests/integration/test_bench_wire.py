"""What codecs cost, measured on a few numbers: the benchmark runs, and its result holds what it promises."""

import io
import json

import pytest
import torch
from rich.console import Console

import adamesh
from adamesh.bench import wire
from adamesh.bench.options import WireOptions
from adamesh.bench.wire import bench_wire
from adamesh.errors import CannotCompile, ConfigurationError

CODECS = ("bf16", "int8", "int4-stochastic", "sign", "topk-0.05")


def measured(folder, **options):
    """The JSON, and what was printed."""
    console = Console(file=io.StringIO(), record=True, width=120)
    bench_wire(WireOptions(mib=0.25, rounds=2, out=folder, **options), console)
    return json.loads((folder / "wire.json").read_text()), console.export_text()


def test_the_command_prints_a_line_for_every_codec_and_writes_json(run, tmp_path):
    arguments = ["--mib", "0.5", "--rounds", "1", "--no-compile", "--codecs", *CODECS, "--out", "found"]
    code, out, err = run("bench", "wire", *arguments)
    assert (code, err) == (0, "")
    for name in CODECS:
        assert any(line.split()[:1] in ([name], [f"{name}+"]) for line in out.splitlines()), out
    text = (tmp_path / "found" / "wire.json").read_text()
    assert json.loads(text)["elements"] == 2**17
    assert str(tmp_path) not in text


def test_the_json_has_every_round_and_the_break_even_follows_from_it(tmp_path):
    threads = torch.get_num_threads()
    plain, _ = measured(tmp_path, codecs=("int8", "sign"), compile=False, threads=2)
    assert torch.get_num_threads() == threads
    ways = [f"{name} eager {way}" for name in ("int8", "sign") for way in ("encode", "decode")]
    assert {name: len(times) for name, times in plain["rounds_s"].items()} == dict.fromkeys(["copy", *ways], 2)
    assert plain["codecs"]["int8"]["bytes_per_element"] == 1 + 2 / 64
    for name, decodes in (("int8", 1), ("sign", 2)):
        codec = plain["codecs"][name]
        form = codec["forms"]["eager"]
        coding_s = form["encode_s"]["median"] + decodes * form["decode_s"]["median"]
        saved = 8 * plain["elements"] * (4 - codec["bytes_per_element"])
        assert form["break_even_bit_s"] == pytest.approx(saved / coding_s)
        assert codec["needs_feedback"] == (decodes == 2)
    assert plain["codecs"]["int8"]["error_gaussian"] < plain["codecs"]["int8"]["error_heavy"] < 0.1


def test_compiled_forms_stand_beside_eager_ones_where_there_are_any(tmp_path, monkeypatch):
    def compiled(codec, decoded):
        if codec == adamesh.Int4():
            raise CannotCompile("no compiler, so int4 is eager")
        return adamesh.Int8(block=128) if codec == adamesh.Int8() else codec

    monkeypatch.setattr(wire, "compiled", compiled)
    plain, printed = measured(tmp_path, codecs=("bf16", "int8", "int4"))
    forms = {name: list(codec["forms"]) for name, codec in plain["codecs"].items()}
    assert forms == {"bf16": ["eager"], "int8": ["eager", "compiled"], "int4": ["eager"]}
    assert plain["not_compiled"] == {"int4": "no compiler, so int4 is eager"}
    assert "no compiler, so int4 is eager" in printed


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"codecs": ()}, "--codecs"),
        ({"codecs": ("int8", "int8")}, "once"),
        ({"codecs": ("int9",)}, "int9"),
        ({"codecs": ("exact",)}, "no codec by itself"),
        ({"codecs": ("lowrank-2",)}, "no codec by itself"),
        ({"codecs": ("sign-stochastic",)}, "only int8 and int4"),
        ({"mib": 0.0}, "--mib 0"),
        ({"rounds": 0}, "--rounds 0"),
        ({"threads": 0}, "--threads 0"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, options, named):
    with pytest.raises(ConfigurationError, match=named):
        bench_wire(WireOptions(out=tmp_path, **options), Console(quiet=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_cuda_device_the_benchmark_says_so(tmp_path):
    with pytest.raises(ConfigurationError, match="finds no CUDA device"):
        bench_wire(WireOptions(device="cuda", out=tmp_path), Console(quiet=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_cuda_device_codecs_are_measured_there(tmp_path):
    plain, printed = measured(tmp_path, codecs=("int8", "int4"), device="cuda")
    assert [list(codec["forms"]) for codec in plain["codecs"].values()] == [["eager"]] * 2
    assert "eager only" in printed
