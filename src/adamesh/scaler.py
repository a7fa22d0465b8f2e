"""A gradient scaler whose workers agree: for float16, where small gradients vanish unless the loss is scaled up."""

from typing import Any, TypeVar

import torch
from torch import Tensor

from adamesh.errors import ConfigurationError
from adamesh.optimizer import MeshOptimizer

__all__ = ["GradScaler"]

Scaled = TypeVar("Scaled", Tensor, list[Tensor], tuple[Tensor, ...])


class GradScaler:
    """Dynamic loss scaling (Micikevicius et al. 2018), called as ``torch.amp.GradScaler`` is.

    A gradient that is not finite on one worker skips the step on all of them, and all lower their scale: torch's
    own scaler decides on each worker alone.

    Args:
        device: where the loss lives; taken for compatibility, the scale itself is a Python number.
        init_scale: the first scale.
        growth_factor: what the scale is multiplied by after ``growth_interval`` good steps in a row.
        backoff_factor: what it is multiplied by after a skipped step.
        growth_interval: steps.
        enabled: False makes everything pass through.

    Examples:
        >>> model = torch.nn.Linear(2, 1)
        >>> import adamesh
        >>> optimizer, scaler = adamesh.AdamW(model.parameters()), GradScaler()
        >>> scaler.scale(model(torch.ones(1, 2)).sum()).backward()
        >>> scaler.step(optimizer)
        >>> scaler.update()
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if not (growth_factor > 1.0 and 0.0 < backoff_factor < 1.0 and init_scale > 0 and growth_interval > 0):
            raise ConfigurationError(
                f"GradScaler(init_scale={init_scale}, growth_factor={growth_factor}, backoff_factor={backoff_factor}, "
                f"growth_interval={growth_interval}): the growth factor must be above 1, the backoff factor between 0 "
                "and 1, the others positive"
            )
        self.device = device
        self._scale = float(init_scale)
        self._growth_factor = growth_factor
        self._backoff_factor = backoff_factor
        self._growth_interval = growth_interval
        self._enabled = enabled
        self._good_steps = 0
        self._skipped: bool | None = None
        """Whether a step since the last update() was skipped; None if there was none."""

    def scale(self, outputs: Scaled) -> Scaled:
        """The loss, or each of several, times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._scale
        return type(outputs)(output * self._scale for output in outputs)

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Refused: gradients are unscaled as they are summed, by their owners.

        Raises:
            ConfigurationError: always; clip with ``Plan(max_grad_norm=...)`` instead.
        """
        raise ConfigurationError(
            "GradScaler.unscale_() would change gradients that are already on their way. Leave it out: adamesh "
            "unscales by itself, and clips with Plan(max_grad_norm=...)"
        )

    def step(self, optimizer: MeshOptimizer) -> None:
        """Step the optimizer, or skip the step on all workers if a gradient is not finite on any."""
        if not isinstance(optimizer, MeshOptimizer):
            raise ConfigurationError(
                f"adamesh.GradScaler steps adamesh's optimizers, not {type(optimizer).__name__}: use torch's own"
            )
        if not self._enabled:
            optimizer.step()
            return
        made = optimizer.step_scaled(self._scale)
        self._skipped = bool(self._skipped) or not made

    def update(self, new_scale: float | None = None) -> None:
        """Lower the scale after a skipped step, raise it after many good ones, or set it."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        elif self._skipped is None:
            raise ConfigurationError(
                "GradScaler.update() without a step() before it: call scaler.step(optimizer) first"
            )
        elif self._skipped:
            self._scale *= self._backoff_factor
            self._good_steps = 0
        else:
            self._good_steps += 1
            if self._good_steps == self._growth_interval:
                self._scale *= self._growth_factor
                self._good_steps = 0
        self._skipped = None

    def get_scale(self) -> float:
        """The scale; the same on every worker."""
        return self._scale if self._enabled else 1.0

    def is_enabled(self) -> bool:
        """Whether losses are scaled at all."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """Scale and counters, as JSON can hold them."""
        return {"scale": self._scale, "good_steps": self._good_steps} if self._enabled else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if self._enabled:
            if not {"scale", "good_steps"} <= set(state_dict):
                raise ConfigurationError(
                    f"the scaler's state holds {sorted(state_dict)}, not 'scale' and 'good_steps': it was saved by a "
                    "disabled scaler or by torch's. Start with a new scaler"
                )
            self._scale = float(state_dict["scale"])
            self._good_steps = int(state_dict["good_steps"])
