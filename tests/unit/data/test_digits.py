import numpy as np
import pytest
import torch

from adamesh.data.digits import embedded_digits, read_digits, split_evenly
from adamesh.errors import DataError


def archive(folder, **arrays):
    path = folder / "digits.npz"
    np.savez(path, **arrays)
    return path


def test_the_embedded_digits_are_all_there():
    images, labels = embedded_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert (images.min().item(), images.max().item()) == (0, 1)
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_every_class_is_split_in_the_same_proportion_and_no_sample_is_in_both_parts():
    _, labels = embedded_digits()
    train, test = split_evenly(labels)
    assert (len(train), len(test)) == (1437, 360)
    assert sorted(torch.cat([train, test]).tolist()) == list(range(1797))
    assert set(labels[test].bincount().tolist()) <= {34, 35, 36, 37}


@pytest.mark.parametrize(
    ("arrays", "rule"),
    [
        ({"images": np.zeros((3, 8, 8), np.uint8)}, "labels"),
        ({"images": np.zeros((3, 8, 8), np.uint8), "labels": np.array([1, 2, 10])}, "0 to 9"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.array([1, 2, 3])}, "one per label"),
        ({"images": np.full((1, 8, 8), 17), "labels": np.array([1])}, "0 to 16"),
        ({"images": np.zeros((1, 8, 8)), "labels": np.array([{"a": 1}])}, "no readable archive"),
    ],
)
def test_an_archive_of_something_else_is_refused(tmp_path, arrays, rule):
    with pytest.raises(DataError, match=rule):
        read_digits(archive(tmp_path, **arrays))


def test_a_truncated_archive_is_refused(tmp_path):
    path = archive(tmp_path, images=np.zeros((30, 8, 8), np.uint8), labels=np.zeros(30, np.int64))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="no readable archive"):
        read_digits(path)


def test_a_missing_archive_is_said_to_be_missing(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_digits(tmp_path / "absent.npz")
