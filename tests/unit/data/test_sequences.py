"""Laws of masking, and of sequences cut from one row of tokens."""

import numpy as np
import pytest
import torch

from adamesh.data.sequences import MaskedSplit, NextTokenSplit
from adamesh.data.split import AugmentedSplit
from adamesh.data.wordpiece import WordPiece

VOCABULARY = 1000
CONTEXT = 128
UNIGRAM = torch.linspace(-9, -5, VOCABULARY)


@pytest.fixture(scope="module")
def tokens():
    row = np.random.default_rng(0).integers(5, VOCABULARY, 126 * 200 + 50).astype(np.uint16)
    row[9::10] = WordPiece.SEP  # as dense as the shortest articles make them
    return row


@pytest.fixture(scope="module")
def split(tokens):
    return MaskedSplit(tokens, UNIGRAM, CONTEXT)


def test_every_sequence_hides_equally_many_tokens_and_no_separator(split):
    inputs, places, targets, _ = split.augmented_batch(torch.arange(200), 7)
    assert isinstance(split, AugmentedSplit)
    assert len(split) == 200
    assert inputs.shape == (200, CONTEXT)
    assert places.shape == targets.shape == (200, 19)
    assert (places.diff(dim=1) > 0).all()
    assert not (targets < len(WordPiece.SPECIAL)).any()
    assert (inputs[:, 0] == WordPiece.CLS).all()
    assert (inputs[:, -1] == WordPiece.SEP).all()


def test_what_is_not_chosen_stays_and_targets_are_what_stood_there(split, tokens):
    inputs, places, targets, _ = split.augmented_batch(torch.arange(200), 7)
    restored = inputs.scatter(1, places, targets)[:, 1:-1]
    assert torch.equal(restored.flatten(), torch.from_numpy(tokens[: 126 * 200].astype(np.int64)))


def test_of_chosen_tokens_80_percent_are_masked_10_random_10_unchanged(split):
    batches = [split.augmented_batch(torch.arange(200), seed) for seed in range(10)]
    shown = torch.cat([inputs.gather(1, places).flatten() for inputs, places, _, _ in batches])
    original = torch.cat([targets.flatten() for _, _, targets, _ in batches])
    masked, same = shown == WordPiece.MASK, shown == original
    random = shown[~masked & ~same]
    # 38,000 tokens: a standard deviation is at most 0.2 percent.
    assert masked.double().mean().item() == pytest.approx(0.8, abs=0.01)
    assert same.double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert random.min() >= len(WordPiece.SPECIAL)
    assert random.max() < VOCABULARY
    assert random.double().mean().item() == pytest.approx((VOCABULARY + 5) / 2, rel=0.03)


def test_every_token_is_chosen_as_often_over_epochs(split):
    hits = torch.zeros(126)
    for seed in range(400):
        hits.scatter_add_(0, split.augmented_batch(torch.tensor([3]), seed)[1].flatten() - 1, torch.ones(19))
    real = hits[split.batch(torch.tensor([3]))[0][0, 1:-1] != WordPiece.SEP]
    expected = 400 * 19 / len(real)
    assert (real - expected).abs().max() < 5 * (expected * (1 - 19 / len(real))) ** 0.5


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_masks_do_not_depend_on_how_a_batch_is_cut_or_ordered(split, world_size):
    indices = torch.randperm(200, generator=torch.Generator().manual_seed(1))[:50]
    whole = split.augmented_batch(indices, 5)
    parts = [split.augmented_batch(part, 5) for part in indices.tensor_split(world_size)]
    for tensor, cut in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(tensor, torch.cat(cut))


def test_another_epoch_masks_otherwise_and_an_evaluation_always_alike(split):
    indices = torch.arange(20)
    first, second = (split.augmented_batch(indices, seed) for seed in (1, 2))
    assert not torch.equal(first[1], second[1])
    assert torch.equal(split.batch(indices)[1], split.batch(indices)[1])


def test_unigram_loss_is_that_of_the_same_targets(split, tokens):
    _, _, targets, unigram_loss = split.batch(torch.arange(5))
    torch.testing.assert_close(unigram_loss, -UNIGRAM[targets].mean(dim=1))
    _, targets, unigram_loss = NextTokenSplit(tokens, UNIGRAM, CONTEXT).batch(torch.arange(5))
    torch.testing.assert_close(unigram_loss, -UNIGRAM[targets].mean(dim=1))


@pytest.mark.parametrize("length", [129, 130, 256, 257, 1000])
def test_every_token_but_the_first_is_a_target_once_up_to_the_last_whole_sequence(length):
    row = np.arange(length, dtype=np.uint16)
    split = NextTokenSplit(row, torch.zeros(length), CONTEXT)
    inputs, targets, _ = split.batch(torch.arange(len(split)))
    assert torch.equal(targets, inputs + 1)
    assert targets.flatten().tolist() == list(range(1, 1 + CONTEXT * ((length - 1) // CONTEXT)))
