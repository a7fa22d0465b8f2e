"""DiLoCo: islands step alone, and an outer optimizer moves an anchor by how far they have gone.

    every H steps      D_i = a - p_i         D <- mean over islands
                       a <- outer(a, D)      p_i <- a                     (inner moments are kept)

Douillard et al. 2023, algorithm 1. Streaming (Douillard et al. 2025): parameters are cut into fragments, each with its
own rhythm; pseudo-gradients leave, training goes on for ``delay`` steps, and when the mean has come,

                       p_i <- blend p_i + (1 - blend) a

SparseLoCo (Sarfi et al. 2025): ``codec=Feedback(TopK(...), decay=0.95)`` and an outer rule without momentum.
"""

from dataclasses import dataclass, field

from adamesh.codecs.coding import Coding, parts
from adamesh.codecs.lowrank import LowRank
from adamesh.errors import ConfigurationError, IncompatiblePlan
from adamesh.sync.base import Outer, Schedule, SyncPlan, require_whole
from adamesh.sync.outer import Nesterov, OuterRule

__all__ = ["DiLoCo"]


@dataclass(frozen=True)
class DiLoCo(Schedule):
    """Islands step alone, and send their pseudo-gradients every ``h`` steps.

    Args:
        h: steps between two agreements on the same parameters.
        outer: how the anchor moves.
        fragments: parts of all parameters that leave at different steps, evenly spread over ``h``.
        delay: steps that training goes on while a fragment is on its way. From 2 on, both ways are hidden.
        blend: share of its own parameters that an island keeps when a fragment arrives; not set: 0 without a delay,
            0.5 with one.
        codec: how pseudo-gradients are coded; the same as ``Wire(across=...)``.

    Raises:
        ConfigurationError: a value is out of range.
        IncompatiblePlan: two are unsound together.

    Examples:
        >>> [DiLoCo(4, fragments=2, delay=1).at(step).launch for step in range(4)]
        [(), (1,), (), (0,)]
    """

    h: int
    outer: OuterRule = field(default_factory=Nesterov)
    fragments: int = 1
    delay: int = 0
    blend: float | None = None
    codec: Coding | None = None

    def __post_init__(self) -> None:
        for name, least in (("h", 1), ("fragments", 1), ("delay", 0)):
            require_whole(self, name, getattr(self, name), least)
        if not isinstance(self.outer, OuterRule):
            raise ConfigurationError(
                f"DiLoCo(outer={self.outer!r}): must be an outer rule, as in adamesh.Nesterov(lr=0.7, momentum=0.9) or "
                "adamesh.sync.outer.SGD(lr=1.0)"
            )
        if self.blend is not None and not 0.0 <= self.blend < 1.0:
            raise ConfigurationError(f"DiLoCo(blend={self.blend}): must be at least 0 and below 1, as in 0.5")
        if self.codec is not None and not isinstance(self.codec, Coding):
            raise ConfigurationError(
                f"DiLoCo(codec={self.codec!r}): must be a codec, as in Feedback(Int4()), or None; names such as 'int4' "
                "belong in configuration files"
            )
        self._check_sound()

    @property
    def kept(self) -> float:
        """The blend that is meant."""
        return (0.5 if self.delay else 0.0) if self.blend is None else self.blend

    def at(self, step: int) -> SyncPlan:
        return SyncPlan(
            gradients=False,
            outer=Outer(self.outer, self.fragments, self.kept, self.codec),
            launch=self._left_at(step),
            # A fragment has two ways to go, to the owners of the sums and back, half of the delay each.
            forward=self._left_at(step - self.delay // 2) if self.delay >= 2 else (),
            land=self._left_at(step - self.delay),
        )

    def _left_at(self, step: int) -> tuple[int, ...]:
        offsets = (fragment * self.h // self.fragments for fragment in range(self.fragments))
        return tuple(f for f, offset in enumerate(offsets) if step >= 0 and (step + 1 + offset) % self.h == 0)

    def _check_sound(self) -> None:
        if self.delay >= self.h:
            raise IncompatiblePlan(
                f"DiLoCo(h={self.h}, delay={self.delay}): a fragment would leave again before it has arrived. Take a "
                f"delay below h: DiLoCo(h={self.h}, delay={self.h - 1})"
            )
        if self.delay and self.kept == 0.0:
            raise IncompatiblePlan(
                f"DiLoCo(delay={self.delay}, blend={self.blend}): what an island has learnt while a fragment was on "
                "its way would be thrown away when it arrives. Keep a share, blend=0.5, or take delay=0"
            )
        if self.codec is None:
            return
        coding = parts(self.codec)
        if coding.frozen or coding.momentum:
            raise IncompatiblePlan(
                f"DiLoCo(codec={self.codec}): pseudo-gradients wait for no second moments, and no momentum takes their "
                f"place. Give the codec alone: DiLoCo(codec=Feedback({coding.codec}))"
            )
        if self.fragments > 1 and isinstance(coding.codec, LowRank):
            raise IncompatiblePlan(
                f"DiLoCo(fragments={self.fragments}, codec={self.codec}): fragments are runs of elements, which are no "
                "matrices. Take fragments=1, or a codec: Feedback(Int4())"
            )
        if coding.decay < 1.0 and self.outer.momentum:
            raise IncompatiblePlan(
                f"DiLoCo(outer={self.outer}, codec={self.codec}): feedback that fades is a momentum by itself, and "
                "two of them overshoot. Leave one out: outer=SGD(lr=1.0), or decay=1.0"
            )
