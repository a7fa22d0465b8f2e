"""NAdam, SGD and Adadelta as their papers (and torch's deviations) have them, on one parameter, in plain arithmetic."""

from collections.abc import Callable

from torch import Tensor

Update = Callable[[Tensor, Tensor, int], Tensor]
"""From parameter, gradient and step number, from 1, to the new parameter; remembers its moments."""


def textbook_nadam(lr: float, beta1: float, beta2: float, eps: float, psi: float, decay: float) -> Update:
    """Dozat 2016, algorithm 2, with moments decayed by beta1 and decoupled decay."""
    m = v = Tensor()
    product = 1.0

    def mu(t: int) -> float:
        return float(beta1 * (1 - 0.5 * 0.96 ** (t * psi)))

    def update(p: Tensor, g: Tensor, t: int) -> Tensor:
        nonlocal m, v, product
        p = p * (1 - lr * decay)
        m = (1 - beta1) * g if t == 1 else beta1 * m + (1 - beta1) * g
        v = (1 - beta2) * g * g if t == 1 else beta2 * v + (1 - beta2) * g * g
        product *= mu(t)
        m_hat = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        return p - lr * m_hat / ((v / (1 - beta2**t)).sqrt() + eps)

    return update


def textbook_sgd(lr: float, momentum: float, dampening: float, decay: float, nesterov: bool) -> Update:
    """Polyak's momentum, or Sutskever's form of Nesterov's; the first step is not damped."""
    b = Tensor()

    def update(p: Tensor, g: Tensor, t: int) -> Tensor:
        nonlocal b
        g = g + decay * p
        b = g if t == 1 else momentum * b + (1 - dampening) * g
        return p - lr * (g + momentum * b if nesterov else b)

    return update


def textbook_adadelta(lr: float, rho: float, eps: float, decay: float) -> Update:
    """Zeiler 2012, algorithm 1."""
    v: Tensor | float = 0.0
    u: Tensor | float = 0.0

    def update(p: Tensor, g: Tensor, t: int) -> Tensor:
        nonlocal v, u
        g = g + decay * p
        v = rho * v + (1 - rho) * g * g
        d = ((u + eps) / (v + eps)) ** 0.5 * g
        u = rho * u + (1 - rho) * d * d
        return p - lr * d

    return update
