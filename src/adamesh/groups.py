"""Parameter groups for models whose embeddings have row-sparse gradients."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from adamesh.errors import ConfigurationError
from adamesh.rules.row_modes import MODES

__all__ = ["param_groups"]


def param_groups(model: nn.Module, sparse: str = "lazy", **options: Any) -> list[dict[str, Any]]:
    """A model's parameters as groups for an optimizer: the dense ones, and those whose gradients are row-sparse.

    Row-sparse are the weights of modules built with ``sparse=True`` (``nn.Embedding``, ``nn.EmbeddingBag``), unless
    another module uses them too: their gradients are dense. Parameters go by the model's names.

    Args:
        model: whose parameters are to be trained.
        sparse: how rows are updated: ``"lazy"``, by the rule of ``torch.optim.SparseAdam``; ``"decayed"``, by Adam with
            the decays of the steps that a row missed, and its own step count; ``"exact"``, as dense Adam would.
        options: hyper-parameters of the sparse group, where they differ from the optimizer's.

    Returns:
        One group or two; a group without parameters is left out.

    Raises:
        ConfigurationError: there is no such mode.

    Examples:
        >>> import adamesh
        >>> model = nn.Sequential(nn.Embedding(1000, 8, sparse=True), nn.Linear(8, 1))
        >>> optimizer = adamesh.AdamW(param_groups(model, sparse="exact"), lr=1e-2)
        >>> [group["param_names"] for group in optimizer.param_groups]
        [['1.weight', '1.bias'], ['0.weight']]
    """
    if sparse not in MODES:
        raise ConfigurationError(f"sparse={sparse!r} is unknown: it must be one of {', '.join(map(repr, MODES))}")
    readers = [module for module in model.modules() if getattr(module, "sparse", False) is True]
    by_others = _parameters(module for module in model.modules() if module not in readers)
    tables = _parameters(readers) - by_others
    named = list(model.named_parameters())
    dense_group = {"params": [pair for pair in named if id(pair[1]) not in tables]}
    sparse_group = {"params": [pair for pair in named if id(pair[1]) in tables], "sparse": sparse, **options}
    if sparse == "exact":
        sparse_group["modules"] = readers
    return [group for group in (dense_group, sparse_group) if group["params"]]


def _parameters(modules: Iterable[nn.Module]) -> set[int]:
    return {id(param) for module in modules for param in module.parameters(recurse=False)}
