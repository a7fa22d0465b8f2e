"""Seeds derived from what they belong to, so that no random state has to be kept or saved."""

import hashlib

__all__ = ["derived_seed"]


def derived_seed(*parts: int | str) -> int:
    """A seed of 63 bits that depends on every part and on their order: (0, 1) and (1, 0) are unrelated."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
