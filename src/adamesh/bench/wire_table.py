"""The printed form of what codecs cost."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from adamesh.bench.table import print_if_busy
from adamesh.bench.wire_records import WireResult

__all__ = ["print_codecs"]

_LEGEND = """\
encode, decode: GB of float32 per second, medians; into buffers made beforehand
of copy: time of one copy of the same float32 numbers over that of an encode and a decode together, in the same round
left over: length of what the codec drops over the length of what it was given, of gaussian numbers and of numbers with
heavy tails (Student's t, 3 degrees of freedom); where feedback is needed (+) it is sent later
pays below: speed of a link, per worker and direction, from which on sending float32 is as quick: bits saved over the
time of an encode and a decode (two decodes with feedback), if nothing is hidden. Among W workers: times (W - 1) / W
"""


def print_codecs(console: Console, result: WireResult) -> None:
    """A table with a line for each form of each codec, and what its columns mean."""
    options = result.options
    gigabytes = 4 * result.elements / 1e9
    console.print(
        f"{result.elements / 2**20:.2f} Mi elements on {options.device}, {options.threads} thread(s), "
        f"{options.rounds} rounds; a copy: {gigabytes / result.copy_s.median:.1f} GB/s",
        soft_wrap=True,
    )
    interval = "95 %" if options.rounds >= 6 else "range"
    columns = ["", "bytes per\nparameter", "left over,\ngaussian", "left over,\nheavy", ""]
    columns += ["encode,\nGB/s", "decode,\nGB/s", f"of copy\n[{interval}]", "pays below,\nGbit/s"]
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = True
        column.justify = "right"
    table.columns[0].justify = table.columns[4].justify = "left"
    for name, codec in result.codecs.items():
        head = [
            name + ("+" if codec.needs_feedback else ""),
            f"{codec.bytes_per_element:.3f}",
            f"{codec.error_gaussian:.2%}",
            f"{codec.error_heavy:.2%}",
        ]
        for kind, form in codec.forms.items():
            share = form.share_of_copy
            table.add_row(
                *head,
                kind,
                f"{gigabytes / form.encode_s.median:.2f}",
                f"{gigabytes / form.decode_s.median:.2f}",
                f"{share.median:.0%} [{share.low:.0%}, {share.high:.0%}]",
                f"{form.break_even_bit_s / 1e9:.1f}",
            )
            head = [""] * len(head)
    console.print(table)
    print_if_busy(console, result.foreign_cores)
    for line in dict.fromkeys(result.not_compiled.values()):
        console.print(line, style="yellow", soft_wrap=True)
    if options.device != "cpu" and options.compile:
        console.print(f"eager only: on {options.device} codecs are not compiled", soft_wrap=True)
    console.print(_LEGEND, end="", soft_wrap=True)
    console.print(result.machine.line(), soft_wrap=True)
