"""What the kernel tells of a worker on the same machine: whether it is stopped, and so neither slow nor starved."""

import os
from pathlib import Path

__all__ = ["is_stopped", "this_process"]

_STOPPED = ("T", "t")  # by a signal, by a debugger


def this_process() -> str:
    """This process, for others: the boot of its machine, its namespace of processes, its number; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {os.getpid()}"
    except OSError:  # not on Linux, or /proc is hidden
        return ""


def is_stopped(process: str, own: str) -> bool:
    """Whether a process is stopped, as far as this one can see.

    Args:
        process: what `this_process` said in that one.
        own: what it says in this one.
    """
    place, _, number = process.rpartition(" ")
    if not place or place != own.rpartition(" ")[0] or not number.isdecimal():
        return False
    try:
        state = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:  # it is gone: others find that out
        return False
    return state[:1] != [] and state[0] in _STOPPED
