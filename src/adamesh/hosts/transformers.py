"""Hugging Face's Trainer with adamesh's optimizers, by its documented ways in: a callback (transformers 5)."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from adamesh.checkpoint.load import load
from adamesh.checkpoint.save import save
from adamesh.errors import CheckpointError, ConfigurationError
from adamesh.optimizer import MeshOptimizer
from adamesh.replicas import average_buffers

__all__ = ["MeshCallback", "keep_unwrapped"]

_FOLDER = "adamesh"


def keep_unwrapped(trainer: Any) -> None:
    """Let the ``Trainer`` place the model and set its precision, and not wrap it in DDP. Call it before ``train()``."""
    # What Accelerate has prepared once, for whatever purpose, it does not prepare (and wrap) again.
    trainer.accelerator.prepare_model(trainer.model, evaluation_mode=True)


class MeshCallback(TrainerCallback):  # type: ignore[misc]
    """``Trainer(callbacks=[MeshCallback()])``: each checkpoint gets a folder ``adamesh`` with all workers' shares.

    ``train(resume_from_checkpoint=...)`` loads it, on any number of workers, together with the schedule. The Trainer's
    own ``optimizer.pt`` would hold the first worker's share only: ``save_only_model=True`` leaves it out, and is
    required. Batch-norm statistics are averaged over the workers before each evaluation and each checkpoint.

    Raises:
        ConfigurationError: an option of the ``Trainer`` does not go with adamesh's optimizers.
        CheckpointError: a run is resumed from a checkpoint without such a folder.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the options; load, if the Trainer goes on from a checkpoint. Collective."""
        optimizer = _of(kwargs["optimizer"])
        _check(args, optimizer)
        if not state.global_step:
            return
        folder = self._folder(args, state)
        if not (folder / "manifest.json").exists():
            raise CheckpointError(
                f"{folder}: is not there, so the state of the optimizer at step {state.global_step} is lost. Resume "
                "from a checkpoint in output_dir that was saved with MeshCallback()"
            )
        extra = load(folder, kwargs["model"], optimizer)
        kwargs["lr_scheduler"].load_state_dict(extra["scheduler"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Average batch norms if an evaluation or a checkpoint comes next. Collective."""
        self._average_before(control, kwargs["model"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """As `on_step_end`."""
        self._average_before(control, kwargs["model"])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save beside what the Trainer has just saved. Collective."""
        optimizer, scheduler = _of(kwargs["optimizer"]), kwargs["lr_scheduler"]
        save(self._folder(args, state), kwargs["model"], optimizer, scheduler=scheduler.state_dict())

    @staticmethod
    def _average_before(control: Any, model: nn.Module) -> None:
        if control.should_evaluate or control.should_save:
            average_buffers(model)

    @staticmethod
    def _folder(args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / _FOLDER


def _of(optimizer: Any) -> MeshOptimizer:
    """What Accelerate has wrapped."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if not isinstance(inner, MeshOptimizer):
        raise ConfigurationError(
            f"MeshCallback with {type(inner).__name__}: it is for adamesh's optimizers; leave it out, or give the "
            "Trainer optimizer_cls_and_kwargs=(adamesh.AdamW, {...})"
        )
    return inner


def _check(args: Any, optimizer: MeshOptimizer) -> None:
    if args.max_grad_norm:
        raise ConfigurationError(
            f"max_grad_norm={args.max_grad_norm}: the Trainer would clip each worker's own gradient. Set "
            "TrainingArguments(max_grad_norm=0), and clip by the global norm: Plan(max_grad_norm=..., overlap=False)"
        )
    if optimizer.plan.overlap:
        raise ConfigurationError(
            "Plan(overlap=True): the Trainer measures gradients between backward and step() by a function that writes "
            "to them, when they have been sent. Take Plan(overlap=False)"
        )
    if str(getattr(args.save_strategy, "value", args.save_strategy)) != "no" and not args.save_only_model:
        raise ConfigurationError(
            "save_only_model=False: the Trainer would save the first worker's share of the optimizer's state, and call "
            "it all. Set TrainingArguments(save_only_model=True); MeshCallback saves the state"
        )
