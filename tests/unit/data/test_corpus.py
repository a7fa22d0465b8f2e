import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from adamesh.data import corpus as corpus_module
from adamesh.data.cache import cache_root, cached
from adamesh.data.corpus import load_corpus
from adamesh.data.vocabulary import Words
from adamesh.errors import DataError

TEXT = "".join(f" = Title {n} = \n\n" + f"word{n} runs and runs . \n" * 20 for n in range(30))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "adamesh"


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def test_articles_lie_in_one_row_each_followed_by_a_separator(text):
    corpus = load_corpus(text, Words, 300, least=100)
    vocabulary = Words.restored(next(cache_root().glob("*/vocabulary.json")).read_text())
    for row, articles in ((corpus.train, 27), (corpus.test, 3)):
        assert row.dtype == np.uint16
        assert (row == 0).sum() == articles
        assert row[-1] == 0
        assert "runs and runs" in vocabulary.decode(row.tolist())
    assert "27 articles" in corpus.source


def test_an_article_is_on_one_side_only(text):
    corpus = load_corpus(text, Words, 300, least=100)
    vocabulary = Words.restored(next(cache_root().glob("*/vocabulary.json")).read_text())
    seen, held_out = (set(vocabulary.decode(row.tolist()).split()) for row in (corpus.train, corpus.test))
    numbered = {f"word{n}" for n in range(30)}
    assert not seen & held_out & numbered
    assert (seen | held_out) >= numbered


def test_unigram_is_the_smoothed_frequency_in_the_training_split(text):
    corpus = load_corpus(text, Words, 300, least=100)
    counts = np.bincount(corpus.train, minlength=300)
    expected = np.log((counts + 1) / (counts.sum() + 300))
    torch.testing.assert_close(corpus.unigram.double().numpy(), expected, rtol=1e-6, atol=0)
    assert corpus.unigram.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_the_second_load_reads_what_the_first_has_written(text, monkeypatch):
    first = load_corpus(text, Words, 300, least=100)
    monkeypatch.setattr(corpus_module, "_make", None)
    second = load_corpus(text, Words, 300, least=100)
    assert isinstance(second.train, np.memmap)
    assert np.array_equal(first.train, second.train)
    assert first.source == second.source


def test_another_text_and_another_size_are_kept_apart(text, cache):
    load_corpus(text, Words, 300, least=100)
    load_corpus(text, Words, 400, least=100)
    text.write_text(TEXT + "more\n")
    load_corpus(text, Words, 300, least=100)
    assert len(list(cache.glob("*/train.npy"))) == 3


def test_of_many_that_come_at_once_one_does_the_work(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "half").write_text("1")
        (folder / "whole").write_text("2")

    def come(_):
        folder = cached(tmp_path / "cache", "key", make)
        return sorted(path.name for path in folder.iterdir())

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(come, range(16))) == [["half", "whole"]] * 16
    assert len(made) == 1


def rows_at(text, cache):
    """For the pool's processes."""
    os.environ["XDG_CACHE_HOME"] = cache
    return load_corpus(Path(text), Words, 300, least=100).train.tolist()


def test_workers_that_start_at_once_read_the_same(pool, text, cache):
    rows = pool.run(3, rows_at, str(text), str(cache.parent))
    assert rows[0] == rows[1] == rows[2]
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [next(cache.glob("*/train.npy")).parent.name]


def test_a_failure_leaves_nothing_that_looks_whole(tmp_path):
    def fail(folder):
        (folder / "half").write_text("1")
        raise DataError("the text is damaged")

    with pytest.raises(DataError, match="damaged"):
        cached(tmp_path, "key", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(tmp_path, text, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set XDG_CACHE_HOME"):
        load_corpus(text, Words, 300, least=100)


def test_a_damaged_cache_is_named(text, cache):
    load_corpus(text, Words, 300, least=100)
    damaged = next(cache.glob("*/train.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"is damaged .* delete it"):
        load_corpus(text, Words, 300, least=100)


@pytest.mark.parametrize("content", ["word", "", " = Only one = \n\n" + "word after word . \n" * 100])
def test_too_little_text_is_refused_with_what_it_makes(text, content, cache):
    text.write_text(content)
    with pytest.raises(DataError, match=r"too little text.* one sample takes 100"):
        load_corpus(text, Words, 300, least=100)
    assert not list(cache.glob("*/"))


def test_given_splits_are_kept(tmp_path):
    for name, word in (("train", "apple"), ("test", "pear"), ("valid", "plum")):
        (tmp_path / "given").mkdir(exist_ok=True)
        (tmp_path / "given" / f"{name}.txt").write_text(f"{word} and\n" * 100)
    corpus = load_corpus(tmp_path / "given", Words, 300, least=100)
    words = json.loads(next(cache_root().glob("*/vocabulary.json")).read_text())
    assert "apple" in words
    assert "pear" not in words
    assert "not used: valid.txt" in corpus.source
