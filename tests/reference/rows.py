"""Row-sparse Adam as ALGORITHMS describe it, one row at a time, in plain Python numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class TextbookRow:
    """A row of one element."""

    value: float
    m: float = 0.0
    v: float = 0.0
    count: int = 0
    seen: int = 0


@dataclass
class TextbookDecayed:
    """Adam on touched rows, with the decays of the steps that they missed and step counts of their own."""

    rows: list[TextbookRow]
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = True
    steps: int = field(default=0)

    def step(self, gradients: Mapping[int, float]) -> None:
        """One update; the rows that have no gradient are left alone."""
        beta1, beta2 = self.betas
        self.steps += 1
        for number, g in gradients.items():
            row = self.rows[number]
            for missed in range(row.seen + 1, self.steps + 1):
                if missed < self.steps:
                    row.m, row.v = beta1 * row.m, beta2 * row.v
                if self.decoupled:
                    row.value *= 1 - self.lr * self.weight_decay
            if not self.decoupled:
                g += self.weight_decay * row.value
            row.count, row.seen = row.count + 1, self.steps
            row.m = beta1 * row.m + (1 - beta1) * g
            row.v = beta2 * row.v + (1 - beta2) * g * g
            m_hat, v_hat = row.m / (1 - beta1**row.count), row.v / (1 - beta2**row.count)
            row.value -= self.lr * m_hat / (math.sqrt(v_hat) + self.eps)
