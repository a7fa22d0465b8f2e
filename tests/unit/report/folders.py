"""Run folders as training leaves them, with numbers that are known."""

import json
from pathlib import Path

# All that a page shows and a run's author, or its data, may have chosen.
MARKUP = '"><img src=x onerror="document.title=\'hit\'">'
ENDING = "</script><script>document.title='hit'</script>"


def step_line(step: int, **others: object) -> dict[str, object]:
    """Of one step, as the trainer writes it."""
    usual = {
        "step": step,
        "loss": 2.0 / step,
        "lr": 1e-3,
        "grad_norm": 1.0 + 1 / step,
        "step_s": 0.02,
        "data_wait_s": 0.001,
        "comm_exposed_s": 0.004,
        "bytes_up": 1000,
        "bytes_down": 2000,
        "state_bytes": 155_000,
        "samples": 64 * step,
    }
    return usual | others


def evaluation_line(step: int, **others: object) -> dict[str, object]:
    """Of an evaluation."""
    usual = {"step": step, "epoch": step / 10, "samples": 64 * step, "train_loss": 2.5 / step, "eval_loss": 3.0 / step}
    return usual | {"eval_accuracy": 1 - 1 / step} | others


def append(folder: Path, name: str, *records: object) -> None:
    """Lines at the end of one of its files."""
    with (folder / name).open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def make_run(folder: Path, steps: int = 40, settings: str = "", lr: float = 1e-3) -> Path:
    """A run that goes on: so many of its 100 steps, tests after every tenth."""
    folder.mkdir(parents=True)
    text = f'task = "digits"\nnproc = 2\nsteps = 100\n{settings}\n[optim]\nlr = {lr}\n'
    (folder / "config.toml").write_text(text)
    for step in range(1, steps + 1):
        append(folder, "metrics.jsonl", step_line(step, lr=lr))
        if step % 10 == 0:
            append(folder, "metrics.jsonl", evaluation_line(step))
    return folder


def end(folder: Path, steps: int, **others: object) -> None:
    """The summary of a run that has ended."""
    usual = {
        "task": "digits",
        "world_size": 2,
        "steps": steps,
        "samples": 64 * steps,
        "final_loss": 2.0 / steps,
        "seconds": 12.5,
        "samples_per_s": 3000.0,
        "state_bytes_per_rank": 155_000,
        "bytes_up_per_step": 1000.0,
        "bytes_down_per_step": 2000.0,
        "param_count": 38_330,
        "best": {"metric": "loss", "value": 0.05, "step": 30},
        "stopped": "finished",
    }
    (folder / "summary.json").write_text(json.dumps(usual | others))


def event(step: int, kind: str, message: str) -> dict[str, object]:
    """As a line of events.jsonl."""
    return {"step": step, "kind": kind, "message": message}
