import pytest
import torch

from adamesh.data.images import CropFlip, ImageSplit, Normalisation
from adamesh.data.shapes import KINDS, drawn_shapes, tinted
from adamesh.data.split import AugmentedSplit

PLAIN = Normalisation(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)


def split(num=50, padding=4, normalisation=PLAIN):
    images, labels = drawn_shapes(num, 32, len(KINDS), seed=0)
    return ImageSplit(images, labels, normalisation, CropFlip(padding)), images


def test_an_augmented_sample_depends_on_its_index_and_the_seed_alone():
    train, _ = split()
    assert isinstance(train, AugmentedSplit)
    indices = torch.tensor([7, 0, 31, 12])
    images, labels = train.augmented_batch(indices, seed=5)
    for row, index in enumerate(indices):
        alone, label = train.augmented_batch(index.reshape(1), seed=5)
        assert torch.equal(alone[0], images[row])
        assert label == labels[row] == index % 10
    assert not torch.equal(train.augmented_batch(indices, seed=6)[0], images)


def test_an_augmented_image_is_a_window_of_the_image_with_black_borders_mirrored_or_not():
    train, originals = split()
    augmented, _ = train.augmented_batch(torch.arange(50), seed=1)
    seen = set()
    for image, original in zip(augmented, originals, strict=True):
        padded = torch.nn.functional.pad(original, [4] * 4).float()
        windows = padded.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4)
        straight = (windows == image).flatten(2).all(dim=2).nonzero().tolist()
        mirrored = (windows.flip(4) == image).flatten(2).all(dim=2).nonzero().tolist()
        assert len(straight) + len(mirrored) == 1
        seen.add((bool(mirrored), *(straight or mirrored)[0]))
    assert len(seen) > 40


def test_every_window_and_both_directions_are_as_likely():
    position = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(20_000, 1, 16, 16)
    drawn = CropFlip(padding=1)(position, torch.arange(20_000), seed=3)[:, 0]
    shown = drawn[:, 5, 5].int()
    places, counts = shown.unique(return_counts=True)
    # Three rows, and three columns that a mirror moves to other three.
    assert len(places) == 18
    assert (counts / counts.float().mean() - 1).abs().max() < 0.15


def test_a_batch_is_the_images_as_they_are_normalised():
    images, labels = drawn_shapes(6, 32, 3, seed=1)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    test = ImageSplit(images, labels, Normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)), CropFlip(4))
    found, found_labels = test.batch(torch.tensor([4, 1]))
    expected = (images[[4, 1]].float() / 255 - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    torch.testing.assert_close(found, expected)
    assert found_labels.tolist() == [1, 1]
    assert len(test) == 6


def test_without_padding_and_mirrors_left_out_nothing_moves():
    train, _ = split(padding=0)
    indices = torch.arange(50)
    augmented, plain = train.augmented_batch(indices, seed=9)[0], train.batch(indices)[0]
    same = (augmented == plain).flatten(1).all(dim=1)
    mirrored = (augmented == plain.flip(3)).flatten(1).all(dim=1)
    assert torch.all(same ^ mirrored)


@pytest.mark.parametrize("kinds", [1, 4, 10])
def test_drawings_are_balanced_and_depend_on_the_seed_alone(kinds):
    images, labels = drawn_shapes(40, 16, kinds, seed=2)
    again, _ = drawn_shapes(40, 16, kinds, seed=2)
    assert (images.shape, images.dtype) == ((40, 3, 16, 16), torch.uint8)
    assert labels.bincount().tolist() == [40 // kinds] * kinds
    assert torch.equal(images, again)
    assert not torch.equal(images, drawn_shapes(40, 16, kinds, seed=3)[0])


def test_a_tint_is_its_kind_s_alone():
    images, labels = drawn_shapes(400, 16, 4, seed=2)
    before, after = (
        torch.stack([some[labels == kind].float().mean(dim=(0, 2, 3)) for kind in range(4)])
        for some in (images, tinted(images, labels, kinds=4))
    )
    assert (before - before.mean(dim=0)).abs().max() < 20
    assert torch.cdist(after, after).add(1000 * torch.eye(4)).min() > 50
