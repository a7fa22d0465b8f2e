"""The picture of a comparison: test loss against samples, seconds and bytes."""

from collections.abc import Sequence
from pathlib import Path

from adamesh.tune.results import ArmResult

__all__ = ["plot"]


def plot(results: Sequence[ArmResult], title: str, file: Path) -> str:
    """Write the picture, a thin line for each seed; returns a line that says where, or why there is none."""
    curves = [(number, arm.arm.name, t.curve) for number, arm in enumerate(results) for t in arm.finished if t.curve]
    if not curves:
        return "no plot: no trial has finished"
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no plot: matplotlib is not installed (pip install 'adamesh[plots]')"
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    labelled = set()
    for number, name, curve in curves:
        # matplotlib shows no label that begins with an underscore.
        label = "_again" if number in labelled else name
        labelled.add(number)
        losses = [float("nan") if loss is None else loss for loss in curve.losses]
        marker = "o" if len(losses) == 1 else None
        megabytes = [sent / 1e6 for sent in curve.bytes]
        for axis, xs in zip(axes, (curve.samples, curve.seconds, megabytes), strict=True):
            axis.plot(xs, losses, color=f"C{number % 10}", alpha=0.7, linewidth=1, marker=marker, label=label)
    for axis, label in zip(axes, ("samples", "seconds in steps", "MB of one worker, up and down"), strict=True):
        axis.set_xlabel(label)
        axis.locator_params(axis="x", nbins=6)  # numbers of samples are long
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test loss")
    axes[0].set_yscale("log")
    axes[0].legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(file, dpi=110)
    return f"plot in {file}"
