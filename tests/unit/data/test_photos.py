import sys

import pytest
import torch
from PIL import Image

from adamesh.data.photos import IMAGENET_NORMALISATION, PhotoSplit, Stored
from adamesh.data.split import AugmentedSplit
from adamesh.errors import DataError
from tests.unit.data.photo_files import encoded

RED = (250, 10, 10)


def split(folder, *contents, side=16):
    stored = []
    for number, content in enumerate(contents):
        stored.append(Stored(folder / f"{number}.JPEG"))
        stored[-1].path.write_bytes(content)
    return PhotoSplit(stored, list(range(len(stored))), side)


def bytes_of(images):
    mean, std = torch.tensor([IMAGENET_NORMALISATION.mean, IMAGENET_NORMALISATION.std]).reshape(2, 3, 1, 1)
    return (images * std + mean) * 255


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("BMP", "RGB"), ("GIF", "P")],
)
def test_an_image_has_its_colours_whatever_it_is_encoded_as(tmp_path, kind, mode):
    images, labels = split(tmp_path, encoded(kind, mode, colour=RED)).batch(torch.tensor([0]))
    assert images.shape == (1, 3, 16, 16)
    assert labels.tolist() == [0]
    expected = torch.tensor(RED).reshape(1, 3, 1, 1).expand_as(images).float()
    torch.testing.assert_close(bytes_of(images), expected, atol=8, rtol=0)


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("PNG", "LA"), ("PNG", "1")])
def test_a_grey_image_has_three_equal_channels(tmp_path, kind, mode):
    images, _ = split(tmp_path, encoded(kind, mode, colour=RED)).batch(torch.tensor([0]))
    levels = bytes_of(images)
    assert (levels.amax(dim=1) - levels.amin(dim=1)).max() < 0.01


def test_testing_sees_the_middle(tmp_path):
    image = Image.new("RGB", (64, 32), (0, 0, 0))
    image.paste((255, 255, 255), (16, 0, 48, 32))
    image.save(tmp_path / "0.JPEG", "PNG")
    images, _ = PhotoSplit([Stored(tmp_path / "0.JPEG")], [0], 16).batch(torch.tensor([0]))
    assert bytes_of(images).min() > 240


def test_an_augmented_photo_depends_on_its_index_and_the_seed_alone(tmp_path):
    train = split(tmp_path, *(encoded(size=(30 + number, 50)) for number in range(4)))
    assert isinstance(train, AugmentedSplit)
    images, _ = train.augmented_batch(torch.tensor([2, 0, 3]), seed=4)
    for row, index in enumerate([2, 0, 3]):
        alone, labels = train.augmented_batch(torch.tensor([index]), seed=4)
        assert labels.tolist() == [index]
        assert torch.equal(alone[0], images[row])
    assert not torch.equal(train.augmented_batch(torch.tensor([2, 0, 3]), seed=5)[0], images)


def test_windows_are_of_many_sizes_and_lie_in_the_image_whatever_its_shape(tmp_path):
    train = split(tmp_path, encoded(size=(300, 2)), encoded(size=(2, 300)), encoded(size=(1, 1)), encoded())
    images = torch.cat([train.augmented_batch(torch.arange(4), seed)[0] for seed in range(40)])
    assert images.isfinite().all()
    assert len(images[3::4].unique(dim=0)) == 40


def test_an_image_in_an_archive_is_read_by_its_offset(tmp_path):
    content = encoded("PNG", colour=RED)
    (tmp_path / "many").write_bytes(b"?" * 100 + content + b"?" * 100)
    images, _ = PhotoSplit([Stored(tmp_path / "many", 100, len(content))], [0], 8).batch(torch.tensor([0]))
    assert bytes_of(images)[0, 0].mean() == pytest.approx(RED[0], abs=1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(encoded()[:300], "Truncated"), (encoded("PNG")[:200], ""), (b"no image", "cannot identify"), (b"", "identify")],
)
def test_a_damaged_image_is_refused_by_its_name(tmp_path, content, reason):
    with pytest.raises(DataError, match=rf"0\.JPEG: is no readable image \(.*{reason}"):
        split(tmp_path, content).batch(torch.tensor([0]))


def test_an_image_that_is_gone_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.JPEG: is no readable image .*No such file"):
        PhotoSplit([Stored(tmp_path / "gone.JPEG")], [0], 8).batch(torch.tensor([0]))


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install 'adamesh\[images\]'"):
        PhotoSplit([], [], 8)
