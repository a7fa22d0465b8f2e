"""Compiled codecs: the bytes and the numbers of their eager forms, to the bit, in one or two passes over memory.

Because the bits are the same, whether a codec is compiled is each worker's own affair: workers with and without a C++
compiler understand each other, and replicas on both stay alike. That is checked: a kernel is used only after it has
given what the eager form gives on numbers of every kind.

`torch.compile` makes the kernels; its cache on disk, which processes share, spares later ones most of the work.
"""

import math
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from adamesh.codecs.base import Codec, Stream
from adamesh.codecs.blocks import BlockCodec
from adamesh.codecs.dither import dither
from adamesh.errors import CannotCompile

__all__ = ["Compiled", "compiled"]

Kernel = Callable[..., Any]
_TRACED_BLOCKS = 24
"""Any number but 0 and 1, for which kernels of their own would be made."""


class Compiled(Codec):
    """A block codec with kernels for CPUs; on other devices, and where there is no kernel, it is eager.

    Args:
        codec: what it does.
        encoder: of float32, which whatever is encoded is made first; None: eager.
        decoders: by the dtype of what is written.
    """

    def __init__(self, codec: BlockCodec, encoder: Kernel | None, decoders: Mapping[torch.dtype, Kernel]) -> None:
        self.codec = codec
        self.needs_feedback = codec.needs_feedback
        self.keeps_zeros = codec.keeps_zeros
        self._encoder = encoder
        self._decoders = decoders

    @property
    def grain(self) -> int:
        return self.codec.grain

    def payload_bytes(self, numel: int) -> int:
        return self.codec.payload_bytes(numel)

    def encode(self, x_RN: Tensor, out_RB: Tensor, stream: Stream) -> None:
        kernel = self._encoder
        if kernel is None or not self._fits(x_RN):
            self.codec.encode(x_RN, out_RB, stream)
            return
        parts = self.codec.parts_of(out_RB, x_RN)
        x_RKB = self.codec.blocks_of(x_RN)
        noise_RKB = dither(stream, x_RKB.shape, x_RN.device) if self.codec.stochastic else None
        for row, x_KB in enumerate(x_RKB):
            noise_KB = None if noise_RKB is None else noise_RKB[row]
            # Storages of their own, over the same memory: the compiler takes no two views of different dtypes.
            kernel(x_KB.float().contiguous(), noise_KB, *[from_dlpack(part[row]) for part in parts])

    def decode(self, payload_RB: Tensor, out_RN: Tensor) -> None:
        kernel = self._decoders.get(out_RN.dtype)
        if kernel is None or not self._fits(out_RN):
            self.codec.decode(payload_RB, out_RN)
            return
        parts = self.codec.parts_of(payload_RB, out_RN)
        for row, out_KB in enumerate(self.codec.blocks_of(out_RN)):
            kernel(out_KB, *[part[row] for part in parts])

    def _fits(self, x_RN: Tensor) -> bool:
        """Kernels are for CPUs and more than one block."""
        return x_RN.device.type == "cpu" and x_RN.shape[1] > self.codec.grain

    def __repr__(self) -> str:
        return repr(self.codec)


class _Shelf:
    """What this process has compiled, and why it could not: each is found out once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # workers may be threads of one process
        self.kernels: dict[tuple[BlockCodec, str, torch.dtype], Kernel] = {}
        self.failures: dict[tuple[BlockCodec, str, torch.dtype], str] = {}

    def take(self, codec: BlockCodec, way: str, dtype: torch.dtype) -> Kernel:
        """The kernel for one way of a codec; raises CannotCompile."""
        key = (codec, way, dtype)
        with self.lock:
            if key in self.failures:
                raise CannotCompile(self.failures[key])
            if key not in self.kernels:
                try:
                    self.kernels[key] = _kernel(codec, way, dtype)
                except CannotCompile as error:
                    self.failures[key] = str(error)
                    raise
            return self.kernels[key]


_SHELF = _Shelf()


def compiled(codec: Codec, decoded: Collection[torch.dtype]) -> Codec:
    """The codec with kernels for CPUs, or itself if compiling it would gain nothing.

    Takes seconds for each kernel that is new to this machine, and less than one for each that is not.

    Args:
        codec: any.
        decoded: dtypes that it is going to decode to: torch.float32, torch.float64.

    Raises:
        CannotCompile: no C++ compiler, or it fails, or its kernels are not the same to the bit.
    """
    if not (isinstance(codec, BlockCodec) and codec.compiles):
        return codec
    encoder = _SHELF.take(codec, "encode", torch.float32)
    return Compiled(codec, encoder, {dtype: _SHELF.take(codec, "decode", dtype) for dtype in decoded})


def _kernel(codec: BlockCodec, way: str, dtype: torch.dtype) -> Kernel:
    """Compile one way of a codec, and check what comes out."""
    kernel = _traced(codec, way)
    try:
        with torch.no_grad():
            _trace(kernel, codec, way, dtype)
            same = all(_alike(codec, kernel, way, x_RN) for x_RN in _probes(codec.grain, dtype))
    # Whatever it is, from a missing compiler to a full disk or a cache that may not be written, it is no reason to
    # stop: whoever asked is told, and goes on with the eager form.
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise CannotCompile(f"{codec}'s {way} was not compiled: {type(error).__name__}: {lines[0]}") from error
    if not same:
        raise CannotCompile(f"{codec}'s {way} was compiled, but differs from the eager form in some bits")
    return kernel


def _traced(codec: BlockCodec, way: str) -> Kernel:
    def encode(x_KB: Tensor, noise_KB: Tensor | None, *parts: Tensor) -> None:
        codec.encode_blocks(x_KB, parts, noise_KB)

    def decode(out_KB: Tensor, *parts: Tensor) -> None:
        codec.decode_blocks(parts, out_KB)

    function: Kernel = encode if way == "encode" else decode
    # A kernel is for one codec and dtype, and for any number of blocks: nothing else needs guarding, and above all no
    # state around it (autocast, threads, gradient mode) may make it compile once more in the middle of a step.
    compiler: Any = torch.compile  # its overloads do not know all of its arguments
    kernel: Kernel = compiler(
        function,
        fullgraph=True,
        dynamic=True,
        isolate_recompiles=True,
        options={"guard_filter_fn": torch.compiler.skip_all_guards_unsafe},
    )
    return kernel


def _trace(kernel: Kernel, codec: BlockCodec, way: str, dtype: torch.dtype) -> None:
    """Call it for the first time, which is what compiles it."""
    x_RN = torch.zeros(1, _TRACED_BLOCKS * codec.grain, dtype=dtype)
    payload_RB = torch.zeros(1, codec.payload_bytes(x_RN.shape[1]), dtype=torch.uint8)
    x_KB = codec.blocks_of(x_RN)[0]
    parts = [from_dlpack(part[0]) for part in codec.parts_of(payload_RB, x_RN)]
    noise_KB = dither(Stream(0), x_KB.shape, x_KB.device) if codec.stochastic else None
    for tensor in (x_KB, *parts, *([noise_KB] if noise_KB is not None else [])):
        torch._dynamo.mark_static(tensor, 1)
    kernel(x_KB, *([noise_KB] if way == "encode" else []), *parts)


def _probes(grain: int, dtype: torch.dtype) -> list[Tensor]:
    """Numbers of every kind, two rows each: ordinary ones, of all sizes, and blocks with those that are not numbers."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 19 * grain)
    gaussian = torch.randn(shape, generator=generator, dtype=torch.float64)
    sizes = 10.0 ** torch.empty(shape, dtype=torch.float64).uniform_(-46, 40, generator=generator)
    special = gaussian.clone()
    kinds = [0.0, -0.0, math.nan, math.inf, -math.inf, 3.4e38, 1e-38, 1e-41]
    for block, value in enumerate(kinds):
        special[0, block * grain] = value
        special[1, block * grain : (block + 1) * grain] = value
    return [x.to(dtype) for x in (gaussian, gaussian * sizes, special)]


def _alike(codec: BlockCodec, kernel: Kernel, way: str, x_RN: Tensor) -> bool:
    """Whether the compiled form does what the eager one does; any NaN is as good as another."""
    ours = Compiled(codec, kernel, {}) if way == "encode" else Compiled(codec, None, {x_RN.dtype: kernel})
    payload_RB = torch.zeros(2, codec.payload_bytes(x_RN.shape[1]), dtype=torch.uint8)
    codec.encode(x_RN, payload_RB, Stream(1))
    if way == "encode":
        other_RB = torch.zeros_like(payload_RB)
        ours.encode(x_RN, other_RB, Stream(1))
        return torch.equal(payload_RB, other_RB)
    found = [torch.empty_like(x_RN) for _ in range(2)]
    for form, out_RN in zip((codec, ours), found, strict=True):
        form.decode(payload_RB, out_RN)
    eager, other = (torch.where(out_RN.isnan(), torch.nan, out_RN).view(torch.uint8) for out_RN in found)
    return torch.equal(eager, other)
