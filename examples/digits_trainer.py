"""digits_loop.py with Hugging Face's Trainer.

torchrun --nproc-per-node 2 examples/digits_trainer.py runs/trainer
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalPrediction, get_last_checkpoint

import adamesh
from adamesh.data.digits import embedded_digits, split_evenly
from adamesh.hosts.transformers import MeshCallback, keep_unwrapped
from adamesh.models.cnn import SmallCNN

EPOCHS, BATCH_SIZE, LR = 6, 32, 3e-3  # the batch is each worker's


class Digits(Dataset[dict[str, Tensor]]):
    """Samples as the Trainer wants them."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.images[index], "labels": self.labels[index]}


class Classifier(nn.Module):
    """A model as the Trainer wants it: with its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmallCNN(channels=1, side=8, classes=10)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Images [n, 1, 8, 8] and labels [n] to mean loss and logits [n, 10]."""
        logits = self.net(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Of all workers' predictions."""
    return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}


def main(folder: Path, **options: Any) -> float:
    """Train, save every epoch; go on if there is something saved. Returns the accuracy on unseen digits.

    Args:
        folder: for the Trainer's checkpoints.
        options: other `TrainingArguments`, such as `gradient_accumulation_steps`.
    """
    torch.manual_seed(0)
    images, labels = embedded_digits()
    train, test = split_evenly(labels)
    plan = adamesh.Plan(max_grad_norm=1.0, overlap=False)
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "ddp_backend": "gloo",  # leave both out on GPUs
        "per_device_train_batch_size": BATCH_SIZE,
        "num_train_epochs": EPOCHS,
        "lr_scheduler_type": "cosine",
        "weight_decay": 1e-2,
        "max_grad_norm": 0,  # the plan's is over all workers
        "save_strategy": "epoch",
        "save_only_model": True,  # the callback saves the optimizer
        "eval_strategy": "epoch",
        "report_to": "none",
        "disable_tqdm": True,
    }
    trainer = Trainer(
        model=Classifier(),
        args=TrainingArguments(**(settings | options)),
        train_dataset=Digits(images[train], labels[train]),
        eval_dataset=Digits(images[test], labels[test]),
        compute_metrics=accuracy,
        optimizer_cls_and_kwargs=(adamesh.AdamW, {"lr": LR, "plan": plan}),
        callbacks=[MeshCallback()],
    )
    keep_unwrapped(trainer)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)
    found = float(trainer.evaluate()["eval_accuracy"])
    if trainer.is_world_process_zero():
        print(f"test accuracy {found:.3f}")
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
