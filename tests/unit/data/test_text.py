"""Formats of texts: what is read from them, what is refused, and which articles are for testing."""

import bz2
import zipfile

import pytest

from adamesh.data.article import Article, divided
from adamesh.data.formats import TextFile
from adamesh.data.plain import plain_articles
from adamesh.data.text import embedded_text, find_text
from adamesh.errors import DataError

DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">
  <siteinfo><sitename>Wikipedia</sitename></siteinfo>
  <page><title>Dog</title><ns>0</ns><id>1</id>
    <revision><id>9</id><text>A '''dog''' &amp; a [[Cat|cat]].{{stub}}</text></revision></page>
  <page><title>Dogs</title><ns>0</ns><redirect title="Dog" /><revision><text>#REDIRECT [[Dog]]</text></revision></page>
  <page><title>Talk:Dog</title><ns>1</ns><revision><text>chatter</text></revision></page>
  <page><title>Gone</title><ns>0</ns><revision><text deleted="deleted" /></revision></page>
  <page><title>Emu</title><ns>0</ns><revision><text>A bird.</text></revision></page>
</mediawiki>
"""
LAUGHS = '<!DOCTYPE m [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + DUMP.replace("A bird", "&b;")
PLAIN = """
 = Emu =

 An emu runs 40 @.@ 5 km @/@ h , a <unk> @-@ like bird .

 = = Food = =

 Grass .
 = Dog =

 Barks .
"""


def articles_of(path):
    return list(TextFile(path).articles())


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        content = content.encode()
    path.write_bytes(bz2.compress(content) if path.name.endswith(".bz2") else content)
    return path


@pytest.mark.parametrize("name", ["dump.xml", "dump.xml.bz2"])
def test_a_dump_gives_its_articles_without_redirects_and_talk(tmp_path, name):
    path = written(tmp_path / name, DUMP)
    assert articles_of(path) == [Article("Dog", "A dog & a cat."), Article("Emu", "A bird.")]


def test_headings_of_plain_text_head_articles_and_its_joints_are_undone(tmp_path):
    emu, dog = articles_of(written(tmp_path / "a.txt", PLAIN))
    assert (emu.title, dog) == ("Emu", Article("Dog", "Barks ."))
    assert emu.text == "An emu runs 40.5 km @/@ h , a <unk>-like bird .\nFood\nGrass ."


def test_text_without_headings_is_cut_at_blank_lines_and_nothing_is_lost():
    lines = [line for n in range(40) for line in (f"{n} " + "word " * 200, "")]
    pieces = list(plain_articles(lines, "book"))
    assert len(pieces) > 3
    assert len({piece.title for piece in pieces}) == len(pieces)
    assert max(len(piece.text) for piece in pieces) < 10_000
    assert "\n".join(p.text for p in pieces).split() == " ".join(lines).split()


def test_parquet_gives_its_text_column_and_titles_where_it_has_them(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"id": [1, 2], "text": ["a", None], "title": ["A", "B"]}), tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": ["a", "b"]}), tmp_path / "b.parquet")
    assert articles_of(tmp_path / "a.parquet") == [Article("A", "a")]
    assert [a.text for a in articles_of(tmp_path / "b.parquet")] == ["a", "b"]
    parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: has no column text, but body"):
        articles_of(tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("a.xml.bz2", bz2.compress(DUMP.encode() * 3)[:-20], "cut short"),
        ("b.xml.bz2", b"no archive", "damaged"),
        ("c.xml", DUMP[:-40], "cut short"),
        ("d.xml", "<html></html>", "the root is <html>"),
        ("e.xml", LAUGHS, "declares a document type"),
        ("f.txt", b"\xff\xfe\x00a", "no UTF-8 text"),
        ("g.parquet", b"PAR1 but no more", "damaged"),
    ],
)
def test_damaged_files_are_refused_by_name_and_reason(tmp_path, name, content, rule):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=rf"{name}.*{rule}"):
        articles_of(path)


def names(files):
    return [file.name for file in files]


@pytest.mark.parametrize(
    ("present", "train", "test"),
    [
        (["wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"], ["wiki.train.tokens"], ["wiki.test.tokens"]),
        (["valid.txt", "test.txt"], ["valid.txt"], ["test.txt"]),
        (["train-0.txt", "train-1.txt", "val.txt"], ["train-0.txt", "train-1.txt"], ["val.txt"]),
        (["train/a.txt", "test/b.txt"], ["a.txt"], ["b.txt"]),
        (["constraint.txt", "latest.txt", "notes.md"], ["constraint.txt", "latest.txt"], []),
    ],
)
def test_names_in_a_folder_or_an_archive_say_what_files_are_for(tmp_path, present, train, test):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in present:
            written(tmp_path / "data" / name, PLAIN)
            archive.writestr(name, PLAIN)
    for place in (tmp_path / "data", tmp_path / "all.zip"):
        text = find_text(place)
        assert (names(text.train), names(text.test)) == (train, test)
        assert len(list(text.articles())) == 2 * len(train + test)


def test_a_folder_without_texts_and_a_broken_archive_are_refused(tmp_path):
    written(tmp_path / "photo.jpg", b"")
    with pytest.raises(DataError, match="has no text in it"):
        find_text(tmp_path)
    with pytest.raises(DataError, match="no zip archive"):
        find_text(written(tmp_path / "a.zip", b"PK no"))


def test_the_embedded_text_is_111_chapters_and_a_tenth_is_for_testing():
    with embedded_text() as text:
        divided_articles = list(text.articles())
    assert len(divided_articles) == 111
    assert sum(is_test for is_test, _ in divided_articles) == 11
    assert divided_articles[0][1].text.startswith("It is a truth universally acknowledged")


@pytest.mark.parametrize("count", [2, 9, 50, 3000])
def test_about_a_tenth_of_articles_is_for_testing_by_title_whatever_their_order(count):
    articles = [Article(f"title {n}", "") for n in range(count)]
    chosen = {article.title for is_test, article in divided(articles) if is_test}
    assert max(1, 0.08 * count) <= len(chosen) <= max(1, 0.12 * count)
    assert chosen == {article.title for is_test, article in divided(articles[::-1]) if is_test}
    twice = list(divided(articles + articles))
    assert len({(is_test, article.title) for is_test, article in twice}) == count


def test_a_fingerprint_is_of_contents_and_roles(tmp_path):
    first = find_text(written(tmp_path / "a" / "text.txt", PLAIN)).fingerprint()
    assert first == find_text(written(tmp_path / "b" / "text.txt", PLAIN)).fingerprint()
    assert first != find_text(written(tmp_path / "c" / "text.txt", PLAIN + "x")).fingerprint()
