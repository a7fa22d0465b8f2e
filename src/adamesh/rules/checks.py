"""What several rules demand of their hyper-parameters."""

from torch import Tensor

from adamesh.errors import ConfigurationError
from adamesh.rules.base import Hyper

__all__ = ["check_betas", "check_lr_shape", "check_not_negative"]


def check_lr_shape(hyper: Hyper) -> None:
    """Raise ConfigurationError for a learning rate of several numbers."""
    if isinstance(hyper["lr"], Tensor) and hyper["lr"].numel() != 1:
        raise ConfigurationError(f"lr is a tensor of shape {tuple(hyper['lr'].shape)}: it must have one element")


def check_not_negative(hyper: Hyper, *names: str) -> None:
    """Raise ConfigurationError unless each of these is at least 0 (and a number: NaN is not)."""
    for name in names:
        if not float(hyper[name]) >= 0.0:
            raise ConfigurationError(
                f"{name}={hyper[name]} is out of range: it must be at least 0. Choose another {name}"
            )


def check_betas(hyper: Hyper) -> None:
    """Raise ConfigurationError unless ``betas`` are two decays."""
    if len(hyper["betas"]) != 2:
        raise ConfigurationError(f"betas={hyper['betas']} must be two numbers, as in (0.9, 0.999)")
    for position, beta in enumerate(hyper["betas"]):
        if not 0.0 <= float(beta) < 1.0:
            raise ConfigurationError(
                f"betas[{position}]={beta} is out of range: it must be in [0, 1), as in betas=(0.9, 0.999)"
            )
