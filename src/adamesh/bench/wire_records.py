"""What was measured of codecs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from adamesh.bench.machine import Machine
from adamesh.bench.options import WireOptions
from adamesh.bench.summary import Spread

__all__ = ["CodecResult", "FormResult", "WireResult"]


@dataclass(frozen=True)
class FormResult:
    """What one form of a codec, eager or compiled, was measured to cost."""

    encode_s: Spread
    """Of all elements, median and quartiles over rounds."""
    decode_s: Spread
    share_of_copy: Spread
    """Time of a copy over that of an encode and a decode in the same round, median and interval."""
    break_even_bit_s: float
    """Links slower than this, at both ends and in both directions at once, carry the numbers sooner coded than in
    float32, among many workers; among W of them, times (W - 1) / W."""


@dataclass(frozen=True)
class CodecResult:
    """One codec."""

    says: str
    bytes_per_element: float
    error_gaussian: float
    """Length of what is left over, over the length of what was coded: of gaussian numbers,"""
    error_heavy: float
    """and of numbers with heavy tails (Student's t, 3 degrees of freedom)."""
    needs_feedback: bool
    forms: Mapping[str, FormResult]


@dataclass(frozen=True)
class WireResult:
    """Everything that was measured."""

    machine: Machine
    options: WireOptions
    elements: int
    copy_s: Spread
    codecs: Mapping[str, CodecResult]
    not_compiled: Mapping[str, str]
    """Why, by codec."""
    foreign_cores: float
    """Cores that other processes kept busy meanwhile, on the average."""
    rounds_s: Mapping[str, list[float]]
    """All times: of the copy, and by codec, form and way."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        options = asdict(self.options)
        for name in ("out", "json"):
            del options[name]  # where files lie on this machine is nobody's business
        return {"bench": "wire", **asdict(self), "options": options}
