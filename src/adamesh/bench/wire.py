"""``adamesh bench wire``: what each codec costs, in time and in what it leaves over, against a copy in memory."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from operator import truediv
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from adamesh.bench.machine import Machine
from adamesh.bench.measure import measured_load, turns
from adamesh.bench.options import WireOptions
from adamesh.bench.summary import interval_of_median, quartiles
from adamesh.bench.wire_records import CodecResult, FormResult, WireResult
from adamesh.bench.wire_table import print_codecs
from adamesh.bench.worker import bar
from adamesh.codecs.base import Codec, Stream
from adamesh.codecs.compiled import compiled
from adamesh.codecs.int4 import Int4
from adamesh.codecs.int8 import Int8
from adamesh.errors import CannotCompile, ConfigurationError
from adamesh.train.names import build_wire
from adamesh.train.settings import PlanSettings

__all__ = ["bench_wire"]

_STOCHASTIC = "-stochastic"
_COPY = "copy"
_BYTES = 4
"""Of an element that is not coded."""
_FREEDOM = 3
"""Degrees of Student's t distribution: the fourth moment is infinite."""


def bench_wire(options: WireOptions, console: Console | None = None) -> WireResult:
    """Measure, print a table, and write the result as JSON.

    Args:
        options: what to measure, and where to write.
        console: where to print; the terminal if not given.

    Raises:
        ConfigurationError: a codec is unknown, or there is no such device.
    """
    console = console or Console(highlight=False, markup=False, width=max(110, Console().width))
    codecs = {name: _codec(name) for name in options.codecs}
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("--device cuda: torch finds no CUDA device here; leave it out to measure on the CPU")
    machine = Machine.observed(options.device)
    folder = options.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S-bench-wire")
    file = options.json or folder / "wire.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with _threads(options.threads):
        result = _measured(options, codecs, machine)
    print_codecs(console, result)
    file.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {file}", soft_wrap=True)
    return result


def _measured(options: WireOptions, codecs: Mapping[str, Codec], machine: Machine) -> WireResult:
    forms: dict[str, dict[str, Codec]] = {}
    not_compiled: dict[str, str] = {}
    for name, codec in codecs.items():
        forms[name] = {"eager": codec}
        if not (options.compile and options.device == "cpu"):
            continue
        try:
            form = compiled(codec, {torch.float32})
        except CannotCompile as error:
            not_compiled[name] = str(error)
        else:
            if form is not codec:
                forms[name]["compiled"] = form
    grain = max(codec.grain for codec in codecs.values())
    numel = round(options.mib * 2**20 / _BYTES / grain) * grain or grain
    x_1N = _gaussian(numel).to(options.device)
    calls, results = {_COPY: _copy(x_1N)}, {}
    for name, codec in codecs.items():
        results[name] = _left_over(codec, x_1N)
        for kind, form in forms[name].items():
            calls |= {f"{name} {kind} {way}": call for way, call in _ways(form, x_1N).items()}
    load = measured_load()
    times = _timed(calls, options)
    load = measured_load(since=load)
    foreign_cores = max(0.0, load.machine_core_s - load.own_core_s) / load.seconds
    for name, by_kind in forms.items():
        found = {kind: _form(results[name], name, kind, times, numel) for kind in by_kind}
        results[name] = replace(results[name], forms=found)
    return WireResult(machine, options, numel, quartiles(times[_COPY]), results, not_compiled, foreign_cores, times)


def _timed(calls: Mapping[str, Callable[[], None]], options: WireOptions) -> dict[str, list[float]]:
    """Seconds of every call, once a round, in turns; one that is not timed goes before each."""
    wait = torch.cuda.synchronize if options.device == "cuda" else _nothing
    times: dict[str, list[float]] = {name: [] for name in calls}
    with bar(shown=True) as progress:
        task = progress.add_task("rounds", total=options.rounds)
        for number in range(options.rounds):
            for name in turns(list(calls), number):
                calls[name]()  # brings back to caches what the others displaced
                wait()
                start_s = time.perf_counter()
                calls[name]()
                wait()
                times[name].append(time.perf_counter() - start_s)
            progress.advance(task)
            progress.refresh()
    return times


def _form(result: CodecResult, name: str, kind: str, times: Mapping[str, list[float]], numel: int) -> FormResult:
    encode_s, decode_s = (times[f"{name} {kind} {way}"] for way in ("encode", "decode"))
    both_s = [e + d for e, d in zip(encode_s, decode_s, strict=True)]
    encoded, decoded = quartiles(encode_s), quartiles(decode_s)
    # With feedback the sender decodes its own payload too, to know what it lacked.
    coding_s = encoded.median + decoded.median * (2 if result.needs_feedback else 1)
    saved_bits = 8 * numel * (_BYTES - result.bytes_per_element)
    share = interval_of_median([truediv(*pair) for pair in zip(times[_COPY], both_s, strict=True)])
    return FormResult(encoded, decoded, share, saved_bits / coding_s)


def _left_over(codec: Codec, x_1N: Tensor) -> CodecResult:
    numel = x_1N.shape[1]

    def error(given_1N: Tensor) -> float:
        payload_1B, out_1N = _buffers(codec, given_1N)
        codec.encode(given_1N, payload_1B, Stream(0))
        codec.decode(payload_1B, out_1N)
        return float((out_1N - given_1N).norm() / given_1N.norm())

    bytes_per_element = codec.payload_bytes(numel) / numel
    errors = error(x_1N), error(_heavy(numel).to(x_1N.device))
    return CodecResult(repr(codec), bytes_per_element, *errors, codec.needs_feedback, {})


def _ways(codec: Codec, x_1N: Tensor) -> dict[str, Callable[[], None]]:
    payload_1B, out_1N = _buffers(codec, x_1N)
    return {
        "encode": lambda: codec.encode(x_1N, payload_1B, Stream(0)),
        "decode": lambda: codec.decode(payload_1B, out_1N),
    }


def _copy(x_1N: Tensor) -> Callable[[], None]:
    out_1N = torch.empty_like(x_1N)

    def copy() -> None:
        out_1N.copy_(x_1N)

    return copy


def _buffers(codec: Codec, x_1N: Tensor) -> tuple[Tensor, Tensor]:
    num_bytes = codec.payload_bytes(x_1N.shape[1])
    return torch.zeros(1, num_bytes, dtype=torch.uint8, device=x_1N.device), torch.empty_like(x_1N)


def _gaussian(numel: int, seed: int = 0) -> Tensor:
    return torch.randn(1, numel, generator=torch.Generator().manual_seed(seed))


def _heavy(numel: int) -> Tensor:
    """Student's t: a gaussian number over the root mean square of some others."""
    squares = sum((_gaussian(numel, seed).square() for seed in range(2, 2 + _FREEDOM)), torch.zeros(()))
    return _gaussian(numel, 1) / (squares / _FREEDOM).sqrt()


def _codec(name: str) -> Codec:
    known = PlanSettings(down=name.removesuffix(_STOCHASTIC))
    codec = build_wire(known).down
    if not isinstance(codec, Codec):
        raise ConfigurationError(f"--codecs {name}: is no codec by itself; name some as in bf16 int8 int4 topk-0.01")
    if not name.endswith(_STOCHASTIC):
        return codec
    if not isinstance(codec, Int8 | Int4):
        raise ConfigurationError(f"--codecs {name}: only int8 and int4 round by chance")
    return replace(codec, stochastic=True)


@contextmanager
def _threads(num: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _nothing() -> None:
    return None
