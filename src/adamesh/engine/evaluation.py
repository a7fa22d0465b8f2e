"""One evaluation of a loss and its gradient by all workers: for optimizers that evaluate several times in a step.

Every evaluation begins with one short message: the worker's loss, whether it failed, whether it has ended the step
instead. So no worker waits for a gradient that another will never send.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adamesh.comm.base import Communicator
from adamesh.engine.bucket import flat_real, state_dtype
from adamesh.engine.mean import Mean
from adamesh.engine.meter import Meter
from adamesh.errors import ConfigurationError, LayoutError, ParameterError, StepOutOfSync

__all__ = ["Evaluation"]


@dataclass(frozen=True)
class _Message:
    """What a worker tells the others before gradients move."""

    failed: bool = False
    ended: bool = False
    """The worker's step is over: there is no gradient."""
    loss: float = 0.0
    settings: bytes = bytes(8)
    parameters: bytes = bytes(8)
    """Eight bytes of a hash each; zero where they are not compared."""

    def pack(self) -> bytes:
        return struct.pack("<BBd8s8s", self.failed, self.ended, self.loss, self.settings, self.parameters)

    @classmethod
    def unpack(cls, message: bytes) -> "_Message":
        failed, ended, loss, settings, parameters = struct.unpack("<BBd8s8s", message)
        return cls(bool(failed), bool(ended), loss, settings, parameters)


class Evaluation:
    """Evaluates a closure on all workers and makes their mean everybody's loss and gradient.

    Args:
        world: the workers.
        named: whose gradients are averaged, with names.
        device: where they are.
        clock: seconds.
    """

    def __init__(
        self,
        world: Communicator,
        named: Sequence[tuple[str, nn.Parameter]],
        device: torch.device,
        clock: Callable[[], float],
    ) -> None:
        self.meter = Meter(clock)
        self.grad_norm = 0.0
        """Of the mean gradient at the step's first evaluation."""
        self._world = world
        self._named = list(named)
        self._params = params = [param for _, param in named]
        dtype = torch.float64 if any(state_dtype(p.dtype.to_real()) == torch.float64 for p in params) else torch.float32
        sizes = [flat_real(param.detach()).numel() for param in params]
        self._mean = Mean(world, sum(sizes), dtype, device, self.meter)
        self._places = [slice(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes))]
        self._settings = bytes(8)
        self._is_first = True

    @property
    def buffer_bytes(self) -> int:
        """What is allocated for the exchange."""
        return self._mean.buffer_bytes

    def meet(self) -> None:
        """Give every worker the first worker's parameters. Collective.

        Raises:
            LayoutError: workers have different ones.
        """
        mine = [(name, tuple(param.shape), str(param.dtype)) for name, param in self._named]
        digests = self._world.exchange(_hash(repr(mine).encode()), "meet")
        other = next((rank for rank, digest in enumerate(digests) if digest != digests[0]), None)
        if other is not None:
            raise LayoutError(
                f"worker {other} and worker 0 have different parameters (worker {self._world.rank} has {len(mine)}): "
                "every worker must build the same model"
            )
        with torch.no_grad():
            for param in self._params:
                value = param.detach().contiguous()
                self._world.broadcast(flat_real(value), src=0).wait()
                param.copy_(value)

    def begin(self, settings: str) -> None:
        """A step begins, with these settings, which must be everybody's."""
        self.meter.reset()
        self._settings = _hash(settings.encode())
        self._is_first = True

    def run(self, closure: Callable[[], float]) -> float:
        """The mean loss; the mean gradient is in the parameters' ``grad``. Collective.

        Raises:
            StepOutOfSync: the closure failed on another worker, or another worker has ended its step.
            ConfigurationError: workers have different settings.
            ParameterError: workers have different parameters.
        """
        failure: Exception | None = None
        loss = 0.0
        try:
            value: float | Tensor = closure()
            loss = float(value.detach() if isinstance(value, Tensor) else value)
            self._collect()
        except Exception as error:  # told to the others, who wait for this worker, then raised
            failure = error
        parameters = self._digest() if self._is_first else bytes(8)
        mine = _Message(failure is not None, False, loss, self._settings, parameters)
        messages = self._exchange(mine, failure)
        mean = self._mean.take()
        self._distribute(mean)
        if self._is_first:
            self.grad_norm = float(torch.linalg.vector_norm(mean, dtype=torch.float64))
        self._is_first = False
        return sum(message.loss for message in messages) / self._world.size

    def end(self) -> None:
        """The step has ended: make sure that it has for all, and that all have the same parameters. Collective."""
        self._exchange(_Message(ended=True, settings=self._settings, parameters=self._digest()), None)

    def _exchange(self, mine: _Message, failure: Exception | None) -> list[_Message]:
        answers = self.meter.exchange(self._world, mine.pack(), "evaluation")
        messages = [_Message.unpack(answer) for answer in answers]
        if failure is not None:
            raise failure
        failed = [rank for rank, message in enumerate(messages) if message.failed]
        if failed:
            raise StepOutOfSync(
                f"the closure failed on worker(s) {failed}; the step was undone. Their own error says why"
            )
        if any(message.ended != messages[0].ended for message in messages):
            ended = [rank for rank, message in enumerate(messages) if message.ended]
            raise StepOutOfSync(
                f"worker(s) {ended} have ended a step that others go on with; it was undone. The workers' processors "
                "compute the same differently: give all the same kind, and the same number of threads"
            )
        self._compare([m.settings for m in messages], ConfigurationError, "hyper-parameters", "Set them alike")
        self._compare(
            [m.parameters for m in messages],
            ParameterError,
            "parameters",
            "Call adamesh.broadcast_module(model) on every worker after changing them; workers that compute the same "
            "differently (other processors, other numbers of threads) cannot share a line search",
        )
        return messages

    def _compare(self, found: Sequence[bytes], kind: type[Exception], what: str, remedy: str) -> None:
        other = next((rank for rank, content in enumerate(found) if content != found[0]), None)
        if other is not None:
            raise kind(f"worker {other} has other {what} than worker 0; the step was undone. {remedy}")

    def _collect(self) -> None:
        """This worker's gradient, zeros where there is none, to where it is sent from."""
        mine = self._mean.mine
        for param, place in zip(self._params, self._places, strict=True):
            if param.grad is None:
                mine[place].zero_()
            else:
                gradient = param.grad.to_dense() if param.grad.is_sparse else param.grad
                mine[place].copy_(flat_real(gradient.detach()))

    def _distribute(self, mean: Tensor) -> None:
        for param, place in zip(self._params, self._places, strict=True):
            flat = mean[place]
            shaped = torch.view_as_complex(flat.view(*param.shape, 2)) if param.is_complex() else flat.view(param.shape)
            # A copy: the closure may add to what it finds.
            param.grad = shaped.to(param.dtype, copy=True)

    def _digest(self) -> bytes:
        state = hashlib.blake2b(digest_size=8)
        for param in self._params:
            state.update(flat_real(param.detach()).contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return state.digest()


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=8).digest()
