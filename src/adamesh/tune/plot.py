"""The picture of a comparison: test loss against samples, seconds and bytes."""

from collections.abc import Sequence
from pathlib import Path

from adamesh.tune.results import ArmResult

__all__ = ["plot"]

_LEGEND_COLUMNS = 2
_DASHES = ("solid", "dashed", "dashdot", "dotted")
"""Beside colours: arms that do the same lie upon each other, and not everybody tells ten colours apart."""


def plot(results: Sequence[ArmResult], title: str, file: Path) -> str:
    """Write the picture, a thin line for each seed; returns a line that says where, or why there is none."""
    curves = [(number, arm.arm.name, t.curve) for number, arm in enumerate(results) for t in arm.finished if t.curve]
    if not curves:
        return "no plot: no trial has finished"
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
    except ImportError:
        return "no plot: matplotlib is not installed (pip install 'adamesh[plots]')"
    xs: dict[str, list[Sequence[float]]] = {
        "samples": [curve.samples for _, _, curve in curves],
        "seconds in steps": [curve.seconds for _, _, curve in curves],
        "MB of one worker, up and down": [[sent / 1e6 for sent in curve.bytes] for _, _, curve in curves],
    }
    # What was zero for all, as bytes are of one worker, says nothing.
    shown = {label: values for label, values in xs.items() if any(any(line) for line in values)}
    # The legend stands below: names of arms are long.
    legend_rows = -(-len(results) // _LEGEND_COLUMNS)
    figure = Figure(figsize=(11, 4.2 + 0.2 * legend_rows), layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    labelled = set()
    for place, (number, name, curve) in enumerate(curves):
        # matplotlib shows no label that begins with an underscore.
        label = "_again" if number in labelled else name
        labelled.add(number)
        losses = [float("nan") if loss is None else loss for loss in curve.losses]
        marker = "o" if len(losses) == 1 else None
        for axis, values in zip(axes, shown.values(), strict=True):
            axis.plot(
                values[place],
                losses,
                color=f"C{number % 10}",
                linestyle=_DASHES[number % len(_DASHES)],
                alpha=0.8,
                linewidth=1.2,
                marker=marker,
                label=label,
            )
    for axis, label in zip(axes, shown, strict=True):
        axis.set_xlabel(label)
        axis.locator_params(axis="x", nbins=6)  # numbers of samples are long
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test loss")
    axes[0].set_yscale("log")
    # Losses are read as numbers, not as powers of ten.
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", fontsize="small", ncols=_LEGEND_COLUMNS)
    figure.suptitle(title)
    figure.savefig(file, dpi=110)
    return f"plot in {file}"
