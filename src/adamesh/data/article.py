"""One article of a text, the unit that is split into training and testing, and how it is split."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

__all__ = ["Article", "divided"]

_TEST_SHARE = 0.1
# Of fewer articles, a tenth by hash alone could be far from a tenth, or none.
_MANY = 1000


@dataclass(frozen=True)
class Article:
    """A piece of plain text that belongs together."""

    title: str
    """Or, where the text has no titles, the article's place in it: what decides where the article goes."""
    text: str


def divided(articles: Iterable[Article]) -> Iterator[tuple[bool, Article]]:
    """Each article, and whether it is for testing: about every tenth, by a hash of its title.

    So an article stays on its side whatever is added to the text or read first, and two articles of one title
    are on the same side. Of fewer than 1,000 articles exactly a tenth, but at least one, is for testing.
    """
    stream = iter(articles)
    first = list(islice(stream, _MANY))
    if len(first) < _MANY:
        titles = sorted({article.title for article in first}, key=_place)
        chosen = set(titles[: max(1, round(_TEST_SHARE * len(titles)))] if len(titles) > 1 else [])
        yield from ((article.title in chosen, article) for article in first)
    else:
        yield from ((_place(article.title) < _TEST_SHARE, article) for article in chain(first, stream))


def _place(title: str) -> float:
    """A number in [0, 1) that only the title determines."""
    digest = hashlib.blake2b(title.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
