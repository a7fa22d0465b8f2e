"""Autograd's hooks: they tell the reducer which gradient is done, and when backward has ended.

The hooks hold the reducer weakly and go with their optimizer, so that one that nobody uses any more lets its
parameters go; and a parameter listens to one optimizer only, the newest.
"""

import weakref
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from adamesh.engine.bucket import LiveBucket, LiveSlot
from adamesh.engine.reducer import Reducer

__all__ = ["Hooks"]

_LISTENER = WeakIdKeyDictionary()
"""Parameter -> weak reference to the Hooks that listen to it."""


class Hooks:
    """The registrations of one optimizer."""

    def __init__(self, reducer: Reducer) -> None:
        self.superseded: str | None = None
        """The name of a parameter that a newer optimizer has taken over, or None."""
        self._reducer = weakref.ref(reducer)
        self._handles: list[RemovableHandle] = []
        self._accumulators: list[Node] = []
        """Kept, because a parameter does not keep its accumulator, and with it the hook would go."""
        weakref.finalize(self, _remove, self._handles, self._accumulators).atexit = False

    def attach(self, buckets: Iterable[LiveBucket]) -> None:
        """Listen to every slot that is trainable and not listened to yet (new, or unfrozen since)."""
        for bucket in buckets:
            for slot in bucket.slots:
                if slot.param.requires_grad and not slot.hooked:
                    self.claim([slot])
                    self._listen(bucket, slot)

    def detach(self, name: str) -> None:
        """A newer optimizer took over parameter ``name``: stop listening to all of them."""
        self.superseded = name
        _remove(self._handles, self._accumulators)

    def claim(self, slots: Iterable[LiveSlot]) -> None:
        """These parameters are this optimizer's from now on; an older one that has them learns it."""
        for slot in slots:
            other = _LISTENER.get(slot.param)
            holder = other() if other is not None else None
            if holder is not None and holder is not self:
                holder.detach(slot.name)
            _LISTENER[slot.param] = weakref.ref(self)

    def _listen(self, bucket: LiveBucket, slot: LiveSlot) -> None:
        me = weakref.ref(self)

        def arrived(_: Tensor) -> None:
            hooks = me()
            if hooks is not None:
                hooks._arrived(bucket, slot)

        def arriving(grads: Sequence[Tensor | None]) -> None:
            hooks = me()
            reducer = hooks._reducer() if hooks is not None else None
            if reducer is not None:
                reducer.arriving(bucket, slot, grads[0])

        self._handles.append(slot.param.register_post_accumulate_grad_hook(arrived))
        if bucket.low_precision:
            # The node's hook, not the tensor's: it runs behind all of the tensor's own, which may change the
            # gradient, and not for torch.autograd.grad, which accumulates nothing.
            accumulator = get_gradient_edge(slot.param).node
            self._handles.append(accumulator.register_prehook(arriving))
            self._accumulators.append(accumulator)
        slot.hooked = True

    def _arrived(self, bucket: LiveBucket, slot: LiveSlot) -> None:
        reducer = self._reducer()
        if reducer is None:
            return
        # A backward inside a backward (re-entrant checkpointing) is a graph task of its own. Only the first one
        # to report gets a flush at its end; what is added after that is found and sent again.
        if reducer.backward_task is None and reducer.syncing and reducer.overlap:
            reducer.backward_task = torch._C._current_graph_task_id()
            self.attach(reducer.buckets)
            Variable._execution_engine.queue_callback(self._flush)
        reducer.arrived(bucket, slot)

    def _flush(self) -> None:
        reducer = self._reducer()
        if reducer is not None:
            reducer.backward_task = None
            if reducer.syncing:
                reducer.flush()


def _remove(handles: list[RemovableHandle], accumulators: list[Node]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()
    accumulators.clear()
