"""What the two tasks on text promise beyond what every task does."""

import sys
from typing import Any

import pytest
import torch

from adamesh.errors import ConfigurationError, DataError
from adamesh.models.bert import BERT_SIZES, BertSize, MaskedBert
from adamesh.tasks.catalog import find_task
from adamesh.tasks.wikipedia_bert import WikipediaBert

TEXT = "".join(f" = Title {n} = \n" + f"the {n} dogs and a cat . \n" * 40 for n in range(20))


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def test_bert_sees_only_what_is_shown_and_predicts_only_where_it_is_asked(text):
    task, split = WikipediaBert(), WikipediaBert().load_data(text, 0).train
    torch.manual_seed(0)
    model = task.build_model()
    inputs, places, targets, _ = split.batch(torch.arange(3))
    logits = model(inputs, places)
    assert logits.shape == (*targets.shape, BERT_SIZES["tiny"].vocabulary)
    bert: Any = model.language_model
    everywhere = bert(inputs).logits
    torch.testing.assert_close(logits, everywhere.gather(1, places[..., None].expand_as(logits)))


def test_a_model_of_frequencies_alone_has_the_unigram_loss(text):
    task = WikipediaBert()
    splits = task.load_data(text, 0)
    batch = splits.test.batch(torch.arange(2))
    metrics = task.metrics(_Frequencies(splits.test._unigram), batch)  # type: ignore[attr-defined]
    torch.testing.assert_close(metrics["loss"], metrics["unigram_loss"])


class _Frequencies(torch.nn.Module):
    def __init__(self, unigram):
        super().__init__()
        self.unigram = unigram

    def forward(self, tokens, places):
        return self.unigram.expand(*places.shape, -1)


@pytest.mark.parametrize(("name", "params"), [("tiny", 4.4e6), ("mini", 11.2e6), ("base", 110e6)])
def test_sizes_are_the_published_ones_with_their_vocabulary(name, params):
    """Turc et al. 2019, table 1. Counted on torch's meta device, which allocates nothing."""
    size = BERT_SIZES[name]
    with torch.device("meta"):
        model = MaskedBert(BertSize(size.layers, size.width, vocabulary=30_522), context=512)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(params, rel=0.03)


@pytest.mark.parametrize("name", ["wikipedia-bert", "text"])
def test_a_text_of_one_word_is_refused(text, name):
    text.write_text("word")
    with pytest.raises(DataError, match=r"text\.txt: is too little text"):
        find_task(name).load_data(text, 0)


def test_without_its_extra_bert_says_what_to_install_and_text_needs_none(monkeypatch):
    for module in ("tokenizers", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    task = find_task("wikipedia-bert")
    for act in (task.build_model, lambda: task.load_data(None, 0)):
        with pytest.raises(ConfigurationError, match=r"pip install 'adamesh\[bert\]'"):
            act()
    assert len(find_task("text:tiny").load_data(None, 0).test) > 100
