"""The same training by torch alone: one process computes every worker's gradient and steps on their mean."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from adamesh.data.sampler import share
from adamesh.data.seeds import derived_seed
from adamesh.train.evaluate import to_device
from adamesh.train.loader import training_batch
from adamesh.train.names import build_torchs
from adamesh.train.run import Run

__all__ = ["Reference"]

Gradients = Mapping[str, Tensor | None]


class Reference:
    """torch.optim's own optimizer of the run's rule on the mean of the workers' gradients.

    Args:
        run: what is trained; its learning rate is constant, and nothing is cut into micro-batches.
        noise: relative noise on the initial parameters and on every mean gradient, in units of their
            precision's last place. 0 for the reference itself; 1 shows what rounding alone can do to it.
    """

    def __init__(self, run: Run, noise: float) -> None:
        self._run = run
        self._noise = noise
        self._sampler = run.sampler()
        self._generator = torch.Generator(run.device).manual_seed(derived_seed("noise", run.config.seed))
        # Workers have batch-norm statistics of their own, so each has a model of its own.
        self._models = [self._build() for _ in range(run.workers.size)]
        self.parameters = dict(self._models[0].named_parameters())
        self._disturb(self.parameters.values())
        self._masters = {name: _master(p) for name, p in self.parameters.items() if p.requires_grad}
        self._share_parameters()
        self._optimizer = build_torchs(run.config.optim, self._masters.values())
        self._loss = 0.0

    def gradients(self, step: int) -> list[Gradients]:
        """What each worker, by rank, should find in its parameters' ``grad`` at this step."""
        config, size = self._run.config, self._run.workers.size
        batch, epoch = self._sampler.global_batch(step), self._sampler.epoch(step)
        found: list[Gradients] = []
        self._loss = 0.0
        for rank, model in enumerate(self._models):
            torch.manual_seed(derived_seed("step", config.seed, step, rank))
            start, stop = share(len(batch), rank, size)
            if stop > start:
                samples = to_device(training_batch(self._run, batch[start:stop], epoch), self._run.device)
                weight = (stop - start) / len(batch)
                loss_share = self._run.task.loss(model, samples) * weight
                (loss_share * size).backward()
                self._loss += float(loss_share.detach())
            grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
            found.append({name: None if grad is None else grad.to_dense() for name, grad in grads.items()})
            model.zero_grad(set_to_none=True)
        return found

    def step(self, gradients: list[Gradients]) -> None:
        """Update on the mean of the workers' gradients, as torch does it in one process."""
        self._average(gradients)
        if self._run.config.plan.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._masters.values(), self._run.config.plan.max_grad_norm)
        self._optimizer.step()
        # A master may be a model's own parameter, whose next gradient must not be added to this one.
        self._optimizer.zero_grad()
        self._share_parameters()

    def step_by_closure(self, step: int) -> None:
        """As torch does it with a rule that evaluates several times in step ``step``."""

        def closure() -> float:
            self._optimizer.zero_grad()
            self._share_parameters()
            self._average(self.gradients(step))
            return self._loss

        self._optimizer.step(closure)
        self._optimizer.zero_grad()
        self._share_parameters()

    def _average(self, gradients: list[Gradients]) -> None:
        """The masters' gradients: the mean of the workers'."""
        for name, master in self._masters.items():
            present = [g[name] for g in gradients]
            # A parameter that some workers use counts as zeros on the others; one that none uses is left alone.
            used = [g.to(master.dtype) for g in present if g is not None]
            master.grad = torch.stack(used).sum(0) / len(present) if used else None
        self._disturb(master.grad for master in self._masters.values() if master.grad is not None)

    def _build(self) -> nn.Module:
        torch.manual_seed(derived_seed("model", self._run.config.seed))
        return self._run.task.build_model().to(self._run.device).train()

    @torch.no_grad()
    def _share_parameters(self) -> None:
        for model in self._models:
            for name, parameter in model.named_parameters():
                source = self._masters.get(name, self.parameters[name])
                if source is not parameter:
                    parameter.copy_(source)

    @torch.no_grad()
    def _disturb(self, tensors: Iterable[Tensor]) -> None:
        if self._noise == 0:
            return
        for tensor in tensors:
            ulps = torch.randn(tensor.shape, generator=self._generator, device=tensor.device, dtype=torch.float32)
            tensor.mul_(1 + self._noise * torch.finfo(tensor.dtype).eps * ulps.to(tensor.dtype))


def _master(parameter: nn.Parameter) -> Tensor:
    """What the optimizer updates: lower precisions are kept in float32 and rounded after each step."""
    if parameter.dtype in (torch.bfloat16, torch.float16):
        return parameter.detach().float().requires_grad_()
    return parameter
