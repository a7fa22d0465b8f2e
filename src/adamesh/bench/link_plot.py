"""The picture of a race over a link: loss against steps, seconds and bytes."""

from collections.abc import Mapping
from pathlib import Path

from adamesh.bench.link_worker import Curve

__all__ = ["plot"]


def plot(curves: Mapping[str, Curve], rate: str, file: Path) -> str:
    """Write the picture; returns a line that says where, or why there is none."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no plot: matplotlib is not installed (pip install 'adamesh[plots]')"
    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for name, curve in curves.items():
        times = [0.0, *curve.seconds]
        sent = curve.bytes_sent / max(1, len(curve.seconds))
        for axis, xs in zip(
            axes,
            (
                curve.eval_steps,
                [times[step] for step in curve.eval_steps],
                [step * sent / 1e6 for step in curve.eval_steps],
            ),
            strict=True,
        ):
            axis.plot(xs, curve.eval_losses, label=name)
    for axis, label in zip(axes, ("steps", "seconds", "MB sent per host"), strict=True):
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[2].set_xscale("symlog")
    axes[0].set_ylabel("loss on held-out text")
    axes[0].legend()
    figure.suptitle(f"training over a link of {rate}")
    figure.savefig(file, dpi=110)
    return f"plot in {file}"
