"""digits_loop.py with Lightning's Trainer, by a strategy that starts workers as its DDP strategy does, without DDP.

torchrun --nproc-per-node 2 examples/digits_lightning.py runs/lightning
python examples/digits_lightning.py runs/lightning
"""

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import adamesh
from adamesh.data.digits import embedded_digits, split_evenly
from adamesh.hosts.lightning import MeshStrategy
from adamesh.models.cnn import SmallCNN

EPOCHS, BATCH_SIZE, LR = 6, 32, 3e-3  # the batch is each worker's


class Digits(LightningModule):  # type: ignore[misc]
    """As any other; only the optimizer is adamesh's."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmallCNN(channels=1, side=8, classes=10)

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        """The mean loss of this worker's batch."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def on_validation_start(self) -> None:
        """Each worker's batch norm has seen its own batches."""
        adamesh.average_buffers(self)

    def validation_step(self, batch: tuple[Tensor, Tensor], number: int) -> None:
        """The accuracy over all workers."""
        images, labels = batch
        right = (self.net(images).argmax(dim=1) == labels).double().mean()
        self.log("accuracy", right, sync_dist=True, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        """With a scheduler, stepped by Lightning."""
        optimizer = adamesh.AdamW(self.named_parameters(), lr=LR, plan=adamesh.Plan(max_grad_norm=1.0))
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main(folder: Path, **options: Any) -> float:
    """Train; returns the accuracy on unseen digits.

    Args:
        folder: for Lightning's checkpoints; if there is one, training goes on from it.
        options: more for the `Trainer`, such as `accumulate_grad_batches`.
    """
    seed_everything(0, verbose=False)
    images, labels = embedded_digits()
    train, test = split_evenly(labels)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=MeshStrategy(),
        max_epochs=EPOCHS,
        callbacks=[ModelCheckpoint(folder, save_last=True, enable_version_counter=False)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    model = Digits()
    loader = DataLoader(TensorDataset(images[train], labels[train]), BATCH_SIZE, shuffle=True)
    unseen = DataLoader(TensorDataset(images[test], labels[test]), 180)
    last = folder / "last.ckpt"
    trainer.fit(model, loader, unseen, ckpt_path=str(last) if last.exists() else None)
    accuracy = float(trainer.callback_metrics["accuracy"])
    if trainer.is_global_zero:
        print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main(Path(sys.argv[1]))
