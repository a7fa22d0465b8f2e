"""Wikipedia's XML dumps (pages-articles), read as a stream: a page in memory at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO
from xml.parsers import expat

from adamesh.data.article import Article
from adamesh.data.markup import plain_text
from adamesh.errors import DataError

__all__ = ["dump_articles"]

_CHUNK_BYTES = 1 << 20
_FIELDS = ("ns", "title", "text")
# MediaWiki itself allows 2 MiB.
_LONGEST_PAGE_CHARS = 16 << 20


def dump_articles(file: BinaryIO, origin: str) -> Iterator[Article]:
    """The articles of a dump: pages of namespace 0 that are no redirects, as plain text.

    Args:
        file: the XML, decompressed.
        origin: the file, for messages.

    Raises:
        DataError: this is no dump, it is cut short, or it declares entities, which no dump does and which
            could expand without end.
    """
    pages = _Pages(origin)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = pages.refuse_doctype
    parser.StartElementHandler = pages.start
    parser.EndElementHandler = pages.end
    parser.CharacterDataHandler = pages.characters
    try:
        while chunk := file.read(_CHUNK_BYTES):
            parser.Parse(chunk, False)
            yield from pages.taken()
        parser.Parse(b"", True)
        yield from pages.taken()
    except expat.ExpatError as error:
        raise DataError(f"{origin}: is damaged or cut short, as XML ({error}); fetch it again") from error


@dataclass
class _Pages:
    """What the parser reports, gathered into pages."""

    origin: str
    ready: list[Article] = field(default_factory=list)
    inside: bool = False
    redirect: bool = False
    reading: list[str] | None = None
    page: dict[str, str] = field(default_factory=dict)
    page_chars: int = 0

    def taken(self) -> list[Article]:
        ready, self.ready = self.ready, []
        return ready

    def refuse_doctype(self, *_: object) -> None:
        raise DataError(f"{self.origin}: declares a document type, which could define entities; no dump does")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self.inside and name != "mediawiki":
            raise DataError(f"{self.origin}: is no Wikipedia dump: the root is <{name}>, not <mediawiki>")
        self.inside = True
        if name == "page":
            self.page, self.page_chars, self.redirect = {}, 0, False
        elif name == "redirect":
            self.redirect = True
        elif name in _FIELDS:
            self.reading = []

    def characters(self, text: str) -> None:
        if self.reading is not None:
            self.reading.append(text)
            self.page_chars += len(text)
            if self.page_chars > _LONGEST_PAGE_CHARS:
                raise DataError(f"{self.origin}: page {self.page.get('title')!r} is longer than any real one; stopped")

    def end(self, name: str) -> None:
        if name in _FIELDS and self.reading is not None:
            self.page[name] = "".join(self.reading)
            self.reading = None
        elif name == "page" and self.page.get("ns") == "0" and not self.redirect:
            text = plain_text(self.page.get("text", ""))
            if text:
                self.ready.append(Article(self.page.get("title", ""), text))
