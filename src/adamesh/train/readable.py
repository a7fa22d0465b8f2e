"""Figures for people."""

from math import isfinite

__all__ = ["readable_bytes", "readable_s"]


def readable_bytes(num_bytes: float) -> str:
    """As in 155 kB."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.2f} GB"


def readable_s(seconds: float) -> str:
    """As in 13.3 s, 4 min 05 s or 2 h 07 min."""
    if not isfinite(seconds) or seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
