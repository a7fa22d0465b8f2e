"""Plain text: WikiText and its like, where `` = Title = `` heads an article, or any other text."""

import re
from collections.abc import Iterable, Iterator

from adamesh.data.article import Article

__all__ = ["plain_articles"]

# A text without headings is cut at the next blank line, or in need at the next line.
_PIECE_CHARS = 8_000
_LONGEST_PIECE_CHARS = 64_000
# WikiText writes 3,000 as "3 @,@ 000".
_WIKITEXT_JOINT = re.compile(r" @([-,.])@ ")


def plain_articles(lines: Iterable[str], name: str) -> Iterator[Article]:
    """The articles of a text.

    An article starts at a heading `` = Title = ``; headings of sections, `` = = Section = = ``, stay as lines.
    What has no heading above it is cut at blank lines into pieces of about 8,000 characters, each an article.

    Args:
        lines: of the text.
        name: the text's own, for what has no title.
    """
    title, body, chars, pieces = None, list[str](), 0, 0
    for line in lines:
        line = _WIKITEXT_JOINT.sub(r"\1", line.strip())
        starts = _is_heading(line)
        ends_piece = title is None and ((chars >= _PIECE_CHARS and not line) or (chars >= _LONGEST_PIECE_CHARS))
        if (starts or ends_piece) and body:
            yield Article(title or f"{name}, piece {pieces}", "\n".join(body))
            body, chars, pieces = [], 0, pieces + 1
        if starts:
            title = line[1:-1].strip()
        elif line:
            body.append(line.strip("= ") if line.startswith("= =") else line)
            chars += len(line)
    if body:
        yield Article(title or f"{name}, piece {pieces}", "\n".join(body))


def _is_heading(line: str) -> bool:
    return line.startswith("= ") and line.endswith(" =") and len(line) > 4 and not line.startswith("= =")
