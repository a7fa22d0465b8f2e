"""The update rules that a configuration can name: what each is called in torch, its numbers, torch's defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["BY_ROWS", "RULES", "RuleName", "RuleNumbers"]

RuleName = Literal["adamw", "adam", "nadam", "sgd", "adadelta", "lbfgs", "onebit-adam"]


@dataclass(frozen=True)
class RuleNumbers:
    """What there is to set about a rule."""

    class_name: str
    """Of the optimizer, in adamesh, and in torch.optim if that has it."""
    defaults: Mapping[str, Any]
    """Every number that the rule takes, with torch's default, or adamesh's where torch has none."""
    in_torch: bool = True
    """torch.optim has it: there is something to compare with."""
    like_adam: bool = False
    """A task's learning rate and weight decay were chosen for AdamW: they make sense for this rule, too."""


_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}

RULES: Mapping[RuleName, RuleNumbers] = {
    "adamw": RuleNumbers("AdamW", _ADAM | {"weight_decay": 1e-2}, like_adam=True),
    "adam": RuleNumbers("Adam", _ADAM, like_adam=True),
    "nadam": RuleNumbers(
        "NAdam",
        {
            "lr": 2e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "momentum_decay": 4e-3,
            "decoupled_weight_decay": False,
        },
        like_adam=True,
    ),
    "sgd": RuleNumbers("SGD", {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}),
    "adadelta": RuleNumbers("Adadelta", {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0}),
    "lbfgs": RuleNumbers(
        "LBFGS",
        {
            "lr": 1.0,
            "max_iter": 20,
            "history_size": 100,
            "tolerance_grad": 1e-7,
            "tolerance_change": 1e-9,
            "line_search_fn": None,
        },
    ),
    "onebit-adam": RuleNumbers(
        "OneBitAdam",
        {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 1e-2, "freeze_at": None},
        in_torch=False,
        like_adam=True,
    ),
}

BY_ROWS: tuple[RuleName, ...] = ("adamw", "adam")
"""The rules that can update embeddings with row-sparse gradients."""
