"""Where the data sets that tasks read are published, how their files are known, and what their publishers ask for."""

import difflib
import re
from dataclasses import dataclass

from adamesh.errors import ConfigurationError

__all__ = ["SOURCES", "Listing", "Published", "Source", "find_source"]


@dataclass(frozen=True)
class Published:
    """One file, and the checksum its publisher gives for it."""

    url: str
    algorithm: str
    """What hashlib calls it."""
    digest: str
    """Hexadecimal."""

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Listing:
    """A file that changes: its publisher's list of checksums, one ``DIGEST  FILE`` a line, says which is the newest."""

    url: str
    algorithm: str
    pattern: str
    """Of the file's name, a regular expression with a group called ``date``."""
    folder: str
    """URL of the folder it is in, with ``{date}``."""

    def choose(self, text: str) -> Published | None:
        """The file that the list's text has; None if it has none. What a line says is taken only if it fits."""
        for line in text.splitlines():
            digest, _, name = line.strip().partition(" ")
            match = re.fullmatch(self.pattern, name.strip().removeprefix("*"))
            if match and re.fullmatch(r"[0-9a-f]{32,128}", digest):
                return Published(f"{self.folder.format(date=match['date'])}/{match[0]}", self.algorithm, digest)
        return None


@dataclass(frozen=True)
class Source:
    """A data set that can be fetched."""

    name: str
    what: str
    """One line."""
    origin: Published | Listing
    size: str
    """About."""
    terms: str
    """What its publisher asks of those who use it."""
    page: str
    """For people; also where to get it by hand."""
    use: str
    """A command that takes it; ``{path}`` is the file."""


_CIFAR = "https://www.cs.toronto.edu/~kriz"
_CIFAR_TERMS = (
    "no licence is stated; the authors ask for a citation of: A. Krizhevsky, Learning Multiple Layers of Features from "
    "Tiny Images, technical report, 2009"
)
_MOVIELENS = "https://files.grouplens.org/datasets/movielens"
_MOVIELENS_TERMS = (
    "for research; not to be redistributed or used for revenue without permission of the GroupLens research project, "
    "no endorsement by it may be claimed, and publications cite: F. M. Harper and J. A. Konstan, The MovieLens "
    "Datasets: History and Context, ACM TiiS 5(4), 2015. The README in the archive has the full terms"
)


def _movielens(name: str, what: str, digest: str, size: str) -> Source:
    return Source(
        name=name,
        what=what,
        origin=Published(f"{_MOVIELENS}/{name}.zip", "md5", digest),
        size=size,
        terms=_MOVIELENS_TERMS,
        page=f"https://grouplens.org/datasets/movielens/{name.removeprefix('ml-')}/",
        use="adamesh train movielens-deepfm --data {path}",
    )


SOURCES: tuple[Source, ...] = (
    Source(
        name="cifar10",
        what="60,000 colour images of 32x32 pixels in ten classes; the Python archive",
        origin=Published(f"{_CIFAR}/cifar-10-python.tar.gz", "md5", "c58f30108f718f92721af3b95e74349a"),
        size="163 MiB",
        terms=_CIFAR_TERMS,
        page=f"{_CIFAR}/cifar.html",
        use="adamesh train cifar10-cnn --data {path}",
    ),
    Source(
        name="cifar10-binary",
        what="the same images in the binary archive, without pickles",
        origin=Published(f"{_CIFAR}/cifar-10-binary.tar.gz", "md5", "c32a1d4ab5d03f1284b67883e8d87530"),
        size="162 MiB",
        terms=_CIFAR_TERMS,
        page=f"{_CIFAR}/cifar.html",
        use="adamesh train cifar10-cnn --data {path}",
    ),
    _movielens("ml-100k", "100,000 ratings of films, 1998", "0e33842e24a9c977be4e0107933c0723", "5 MiB"),
    _movielens("ml-1m", "1 million ratings of films, 2003", "c4d9eecfca2ab87c1945afe126590906", "6 MiB"),
    _movielens("ml-25m", "25 million ratings of films, 2019", "6b51fb2759a8657d3bfcbfc42b592ada", "250 MiB"),
    Source(
        name="wikitext-2",
        what="2 million words of good and featured Wikipedia articles",
        origin=Published("https://wikitext.smerity.com/wikitext-2-v1.zip", "md5", "542ccefacc6c27f945fb54453812b3cd"),
        size="4 MiB",
        terms="text under CC BY-SA 3.0; publications cite: S. Merity et al., Pointer Sentinel Mixture Models, 2016",
        page="https://arxiv.org/abs/1609.07843",
        use="adamesh train wikipedia-bert --data {path}",
    ),
)

_LANGUAGE = re.compile(r"[a-z]{2,}(?:[-_][a-z]+)*")


def find_source(name: str) -> Source:
    """The data set called ``name``; ``wikipedia:LANGUAGE`` is the newest dump of that Wikipedia.

    Raises:
        ConfigurationError: there is none.
    """
    kind, colon, language = name.partition(":")
    if kind == "wikipedia" and colon:
        return _wikipedia(language)
    for source in SOURCES:
        if source.name == name:
            return source
    names = [*(source.name for source in SOURCES), "wikipedia:simple"]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    meant = f"did you mean {near[0]}? " if near else ""
    raise ConfigurationError(f"unknown data set {name!r}; {meant}adamesh data list shows what there is")


def _wikipedia(language: str) -> Source:
    if not _LANGUAGE.fullmatch(language):
        raise ConfigurationError(
            f"wikipedia:{language}: {language!r} is not a Wikipedia's language; write wikipedia:simple, wikipedia:de"
        )
    wiki = f"{language.replace('-', '_')}wiki"
    return Source(
        name=f"wikipedia:{language}",
        what=f"all articles of the Wikipedia in {language!r}, newest dump",
        origin=Listing(
            url=f"https://dumps.wikimedia.org/{wiki}/latest/{wiki}-latest-sha1sums.txt",
            algorithm="sha1",
            pattern=rf"{wiki}-(?P<date>\d{{8}})-pages-articles\.xml\.bz2",
            folder=f"https://dumps.wikimedia.org/{wiki}/{{date}}",
        ),
        size="300 MiB (simple) to 25 GiB (en)",
        terms="text under CC BY-SA 4.0, and mostly under the GFDL: https://dumps.wikimedia.org/legal.html",
        page=f"https://dumps.wikimedia.org/{wiki}/latest/",
        use="adamesh train wikipedia-bert --data {path}",
    )
