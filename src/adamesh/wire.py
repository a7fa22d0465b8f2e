"""The wire: how numbers are written on their way, and which ways to write them are sound."""

import math
from dataclasses import dataclass, fields

from adamesh.codecs.base import Codec
from adamesh.codecs.coding import Coding, Parts, parts
from adamesh.codecs.lowrank import LowRank
from adamesh.codecs.topk import TopK
from adamesh.errors import ConfigurationError, IncompatiblePlan
from adamesh.layout import GRAIN
from adamesh.rules.base import Hyper

__all__ = ["Wire"]

_LEAST_BETA2 = 0.99


@dataclass(frozen=True)
class Wire:
    """Codecs by direction; None is exact.

    Examples:
        >>> from adamesh.codecs.feedback import Feedback
        >>> from adamesh.codecs.int4 import Int4
        >>> Wire(up=Feedback(Int4()), down=Int4()).grain
        64
    """

    up: Coding | None = None
    """Gradients, from every worker to the owners inside its island."""

    down: Coding | None = None
    """Fresh slices, from their owners to every worker of the island: the difference to what these hold is coded, which
    is a residual by itself."""

    across: Coding | None = None
    """Owners' mean gradients between islands, both there and back."""

    @property
    def is_exact(self) -> bool:
        """Nothing is coded."""
        return not self._codings

    @property
    def keeps_residuals(self) -> bool:
        """Something is held back, and sent later."""
        return any(coded.feedback for coded in self._codings.values())

    @property
    def codecs(self) -> frozenset[Codec]:
        """Those that make bytes by themselves, in any direction."""
        return frozenset(coded.codec for coded in self._codings.values() if isinstance(coded.codec, Codec))

    @property
    def sends_momentum(self) -> bool:
        """Momentum travels between islands."""
        return any(coded.momentum for coded in self._codings.values())

    @property
    def grain(self) -> int:
        """Elements: parameters start, and shards end, on multiples of it, so that no block straddles either."""
        return math.lcm(GRAIN, *(coded.codec.grain for coded in self._codings.values()))

    def check(self) -> None:
        """Raise what is unsound.

        Raises:
            ConfigurationError: a value is no codec.
            IncompatiblePlan: two settings are unsound together.
        """
        for direction in fields(self):
            coding = getattr(self, direction.name)
            if coding is not None and not isinstance(coding, Coding):
                raise ConfigurationError(
                    f"Wire({direction.name}={coding!r}): must be a codec, as in adamesh.Int8(), Feedback(codec), "
                    "Warmup(codec, steps) or None; names such as 'int8' belong in configuration files"
                )
        for direction_name, coded in self._codings.items():
            if direction_name == "up" and coded.decay < 1.0:
                raise IncompatiblePlan(
                    f"Wire(up={self.up}): what fades of a gradient never reaches Adam. Leave decay out, or send "
                    "pseudo-gradients between islands: DiLoCo(h=..., codec=...)"
                )
            if coded.momentum:
                self._check_momentum(direction_name, coded)
            if direction_name == "down":
                self._check_down(coded)
            elif isinstance(coded.codec, Codec) and coded.codec.needs_feedback and not coded.feedback:
                raise IncompatiblePlan(
                    f"Wire({direction_name}={coded.codec}) without feedback: what it drops of a gradient would be lost "
                    "in every step alike, and Adam would go elsewhere. Keep it: "
                    f"Wire({direction_name}=Feedback({coded.codec}))"
                )

    def check_mesh(self, num_islands: int, num_shards: int) -> None:
        """Raise what is unsound on a mesh of this shape.

        Raises:
            IncompatiblePlan: a matrix would be cut.
        """
        across = self._codings.get("across")
        if across is not None and isinstance(across.codec, LowRank) and num_shards > 1:
            raise IncompatiblePlan(
                f"Wire(across={across.codec}) with {num_shards} workers an island: what travels there is slices, which "
                f"are no matrices. Send low rank inside islands, Wire(up={across.codec}), or a codec between them: "
                "Wire(across=Feedback(Int4())). Between islands of one worker it is sound"
            )

    def check_group(self, hyper: Hyper) -> None:
        """Raise if a parameter group's hyper-parameters are unsound with what is coded UP or across.

        Raises:
            IncompatiblePlan: the second moment forgets faster than top-k sends; something waits for it to be frozen and
                it never is; or it is going to be frozen, and is learned of coded gradients.
        """
        for name, coding in self._codings.items():
            _check_phase(name, coding, freezes="frozen_after" in hyper)
        beta2 = float(hyper["betas"][1]) if "betas" in hyper else 1.0
        for direction in ("up", "across"):
            coded = self._codings.get(direction)
            if coded is not None and isinstance(coded.codec, TopK) and beta2 < _LEAST_BETA2:
                raise IncompatiblePlan(
                    f"betas={tuple(hyper['betas'])} with Wire({direction}={coded.codec}): most of what arrives of an "
                    "element is zero and the rest is large, and a second moment that forgets in between makes steps of "
                    f"any length. Take betas=({hyper['betas'][0]}, {_LEAST_BETA2}), or a codec that sends every element"
                )

    def _check_down(self, coded: Parts) -> None:
        if isinstance(coded.codec, LowRank):
            raise IncompatiblePlan(
                f"Wire(down={coded.codec}): slices that come DOWN are no matrices, and each owner has its own. Take a "
                "codec: Wire(down=Int4())"
            )
        if coded.feedback:
            raise IncompatiblePlan(
                f"Wire(down=Feedback({coded.codec})): what travels DOWN is the difference between the owner's master "
                "and what the others hold, so what is dropped is in the next difference already, and feedback would "
                f"send it twice. Leave it out: Wire(down={coded.codec})"
            )

    def _check_momentum(self, direction: str, coded: Parts) -> None:
        if direction != "across":
            remedy = "Feedback(Sign())" if direction == "up" else "Sign()"
            raise IncompatiblePlan(
                f"Wire({direction}=Momentum(...)): inside an island the owner of a slice alone has its momentum. Take "
                f"Wire({direction}=Frozen({remedy})); or send momentum between islands, which all have it (of one "
                "worker each they are the replicas of the paper): Wire(across=Frozen(Momentum(Feedback(Sign()))))"
            )
        if not coded.frozen:
            raise IncompatiblePlan(
                "Wire(across=Momentum(...)) outside Frozen(...): what is left of a gradient by coded momentum is no "
                "gradient to learn a second moment of. Take adamesh.OneBitAdam and "
                "Wire(across=Frozen(Momentum(Feedback(Sign()))))"
            )

    @property
    def _codings(self) -> dict[str, Parts]:
        values = {direction.name: getattr(self, direction.name) for direction in fields(self)}
        return {name: parts(value) for name, value in values.items() if value is not None}


def _check_phase(direction: str, coded: Parts, *, freezes: bool) -> None:
    """Raise unless what is coded waits for the second moments if, and only if, these freeze."""
    if coded.frozen and not freezes:
        raise IncompatiblePlan(
            f"Wire({direction}=Frozen(...)) with a rule whose second moments are never frozen: nothing would ever be "
            f"coded. Take adamesh.OneBitAdam, or a warm-up of a number of steps: Wire({direction}=Warmup(..., steps))"
        )
    learns = direction != "down" and isinstance(coded.codec, Codec) and coded.codec.needs_feedback
    if freezes and learns and not coded.frozen:
        raise IncompatiblePlan(
            f"Wire({direction}=...{coded.codec}...) with OneBitAdam: its second moments would be learned of what the "
            "codec makes of gradients, and frozen so. Code from then on: "
            f"Wire({direction}=Frozen(Feedback({coded.codec})))"
        )
