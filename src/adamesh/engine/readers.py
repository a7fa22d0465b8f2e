"""Who reads an exact table: modules whose forward brings the rows that it is about to read to the present.

The hooks hold the engine weakly and go with it, as those on autograd do.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adamesh.engine.hooks import Hooks
from adamesh.engine.table import LiveTable
from adamesh.errors import ConfigurationError

__all__ = ["Readers"]


class Readers:
    """The forward hooks of one optimizer.

    Args:
        read: ``read(table, rows, together)``: bring the rows to the present where all ranks take part, else refuse to
            read those that are behind.
        hooks: which know whether a newer optimizer has taken over.
    """

    def __init__(self, read: Callable[[LiveTable, Tensor, bool], None], hooks: Hooks) -> None:
        self._read = weakref.WeakMethod(read)
        self._hooks = hooks
        self._handles: list[RemovableHandle] = []
        weakref.finalize(self, _remove, self._handles).atexit = False

    def attach(self, modules: Iterable[nn.Module], tables: Sequence[LiveTable]) -> None:
        """Listen to the modules that read exact tables."""
        of_param = {id(table.slot.param): table for table in tables if table.exact}
        for module in modules:
            for param in module.parameters(recurse=False):
                if id(param) in of_param:
                    self._listen(module, of_param[id(param)])

    def _listen(self, module: nn.Module, table: LiveTable) -> None:
        me = weakref.ref(self)

        def before_forward(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            readers = me()
            read = readers._read() if readers is not None else None
            if readers is None or read is None or readers._hooks.superseded is not None or not table.missed:
                return
            if torch._C._current_graph_task_id() != -1:
                return  # activation checkpointing computes a forward again, and has read these rows before
            rows = args[0] if args else kwargs["input"]
            read(table, rows, module.training)

        hook = torch.compiler.disable(before_forward)  # it communicates, which no graph can
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))


def check_readers(exact: Iterable[tuple[str, nn.Parameter]], modules: Sequence[nn.Module]) -> None:
    """Raise ConfigurationError if nobody known reads an exact table: its rows would never be brought up to date."""
    read = {id(param) for module in modules for param in module.parameters(recurse=False)}
    for name, param in exact:
        if id(param) not in read:
            raise ConfigurationError(
                f"no module of the group with sparse='exact' reads its parameter {name!r}: in this mode, rows are "
                "brought up to date when a module reads them. Make groups with adamesh.param_groups(model, "
                'sparse="exact"), or give the group "modules": the nn.Embedding or nn.EmbeddingBag modules whose '
                "weights it holds"
            )


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()
