"""How few and how many workers a run may have."""

from dataclasses import dataclass

from adamesh.errors import ConfigurationError

__all__ = ["Bounds"]


@dataclass(frozen=True)
class Bounds:
    """How few and how many workers a run may have."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> "Bounds":
        """``MIN:MAX``.

        Raises:
            ConfigurationError: it is something else.
        """
        least, colon, most = text.partition(":")
        if not (colon and least.isdecimal() and most.isdecimal() and 1 <= int(least) <= int(most)):
            raise ConfigurationError(
                f"elastic = {text!r}: must be MIN:MAX, the fewest and the most workers that the run may have, as in 2:4"
            )
        return cls(int(least), int(most))
