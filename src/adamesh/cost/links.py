"""Links: what a worker can send per second, and how long a message is on its way.

A message of ``n`` bytes arrives ``latency + n / bandwidth`` after it left: the alpha-beta model (Hockney 1994). The
time that a processor spends to send one is added to it, as in LogGP (Alexandrov et al. 1995).
"""

import re
from dataclasses import dataclass, replace

from adamesh.errors import ConfigurationError

__all__ = ["LOOPBACK", "TCP_SHARE", "Link", "parse_link"]

TCP_SHARE = 1448 / 1514
"""Of what passes an Ethernet with frames of 1,500 bytes, the share that is payload of TCP."""
_LATENCY_S = 100e-6
"""Two kernels and a switch, where nobody says otherwise."""
_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_PATTERN = re.compile(
    r"(?P<rate>\d+(\.\d+)?)(?P<unit>[kmg]bit)(\+(?P<burst>\d+)kb)?(/(?P<delay>\d+(\.\d+)?)(?P<time>us|ms|s))?"
)


@dataclass(frozen=True)
class Link:
    """One worker's connection to the others of an axis, alike in both directions."""

    name: str
    bytes_per_s: float
    """Payload that may leave a worker."""
    latency_s: float
    """Until the last byte of a message is there, beside the time that its bytes take."""
    message_s: float = 20e-6
    """A processor's time to begin one message to one other worker."""
    cpu_s_per_byte: float = 0.0
    """A processor's time for a byte sent and a byte received, which it lacks elsewhere; 0: it has cores to spare."""
    burst_bytes: float = 0.0
    """What may leave at once after a pause, as a token bucket lets it."""
    latency_is_given: bool = False
    """It was not assumed."""
    is_loopback: bool = False
    """Workers share a machine: nothing but its memory is between them."""

    def calibrated(self, on: "Link") -> "Link":
        """With a machine's own costs of a message and a byte, as measured between two workers of it.

        Its latency is added where none was given; loopback is what was measured.
        """
        if self.is_loopback:
            return on
        slower = min(self.bytes_per_s, on.bytes_per_s)
        return replace(
            self,
            bytes_per_s=slower,
            latency_s=self.latency_s if self.latency_is_given else on.latency_s,
            message_s=on.message_s,
            cpu_s_per_byte=on.cpu_s_per_byte,
        )


LOOPBACK = Link("loopback", bytes_per_s=1.5e9, latency_s=60e-6, is_loopback=True)
"""Two processes of one ordinary machine by Gloo; `adamesh plan --measure` puts what this one does in its place."""


def parse_link(text: str) -> Link:
    """What ``--link`` says.

    ``100mbit``; ``100mbit/20ms`` with the latency of one way; ``100mbit+64kb`` with a token bucket's burst, as ``tc``
    limits links; ``loopback``.

    Raises:
        ConfigurationError: it is none of these.
    """
    if text == "loopback":
        return LOOPBACK
    found = _PATTERN.fullmatch(text)
    if found is None or float(found["rate"]) == 0:
        raise ConfigurationError(
            f"link {text!r}: must be a rate, with a latency if it is known, as in 10gbit and 100mbit/20ms, or loopback"
        )
    rate = float(found["rate"]) * _UNITS[found["unit"]] / 8 * TCP_SHARE
    is_given = found["delay"] is not None
    latency = float(found["delay"]) * _TIMES[found["time"]] if is_given else _LATENCY_S
    return Link(text, rate, latency, burst_bytes=1000.0 * int(found["burst"] or 0), latency_is_given=is_given)
