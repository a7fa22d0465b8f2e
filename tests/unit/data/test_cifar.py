import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from adamesh.data import cifar
from adamesh.data.cifar import read_cifar10
from adamesh.data.sources import Published, find_source
from adamesh.errors import DataError
from tests.unit.data.cifar_archives import archive, binary, contents, folder, python2, python3, rows

SUBSET = Path(__file__).parents[4] / "shared" / "data" / "cifar10" / "cifar-10-python-subset.tar.gz"
PYTHON = contents(python3)


def rows_of(part):
    images, labels = part
    return labels.numpy(), images.reshape(-1, 3072).numpy()


def unpacked(path, members):
    return folder(path / "cifar-10-batches-py", members).parent


@pytest.mark.parametrize("pack", [archive, folder, unpacked])
@pytest.mark.parametrize("kind", [python2, python3, binary])
def test_every_format_holds_the_same_images(tmp_path, kind, pack):
    read = read_cifar10(pack(tmp_path / "cifar", contents(kind)))
    (labels_1, pixels_1), (labels_2, pixels_2), (test_labels, test_pixels) = (rows(3, seed) for seed in range(3))
    labels, pixels = rows_of(read.train)
    assert np.array_equal(labels, np.concatenate([labels_1, labels_2]))
    assert np.array_equal(pixels, np.concatenate([pixels_1, pixels_2]))
    labels, pixels = rows_of(read.test)
    assert np.array_equal(labels, test_labels)
    assert np.array_equal(pixels, test_pixels)
    assert (read.train[0].shape, read.train[0].dtype) == ((6, 3, 32, 32), torch.uint8)


def test_nothing_is_unpacked(tmp_path):
    read_cifar10(archive(tmp_path / "cifar.tar.gz", PYTHON))
    assert [file.name for file in tmp_path.iterdir()] == ["cifar.tar.gz"]


@pytest.mark.skipif(not SUBSET.exists(), reason="shared/data/cifar10 is not beside the repository")
def test_the_real_subset_is_balanced():
    read = read_cifar10(SUBSET)
    assert read.train[1].bincount().tolist() == [1000] * 10
    assert read.test[1].bincount().tolist() == [200] * 10
    mean = read.train[0].float().div(255).mean(dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor(cifar.CIFAR10_NORMALISATION.mean), atol=0.005, rtol=0)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95, 0.9999])
def test_a_truncated_archive_is_refused_wherever_it_ends(tmp_path, share):
    path = archive(tmp_path / "cifar.tar.gz", PYTHON)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"cifar\.tar\.gz: is no whole \.tar\.gz archive"):
        read_cifar10(path)


def test_a_flipped_bit_is_refused(tmp_path):
    path = archive(tmp_path / "cifar.tar.gz", PYTHON)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"cifar\.tar\.gz: "):
        read_cifar10(path)


def test_an_archive_of_an_official_name_and_size_must_have_its_checksum(tmp_path, monkeypatch):
    path = archive(tmp_path / "cifar-10-python.tar.gz", PYTHON)
    size, found = path.stat().st_size, hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(cifar._OFFICIAL, path.name, (size, "0" * 32))
    with pytest.raises(DataError, match=f"its MD5 checksum is {found}, the published one 0000"):
        read_cifar10(path)
    monkeypatch.setitem(cifar._OFFICIAL, path.name, (size, found))
    assert read_cifar10(path).origin.endswith("checksum verified")
    assert "checksum" not in read_cifar10(path.rename(tmp_path / "mine.tar.gz")).origin


@pytest.mark.parametrize("name", ["cifar10", "cifar10-binary"])
def test_the_checksum_is_the_one_that_fetching_asks_for(name):
    origin = find_source(name).origin
    assert isinstance(origin, Published)
    assert cifar._OFFICIAL[origin.file][1] == origin.digest


def test_an_official_archive_is_known_by_its_size(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    with path.open("wb") as file:
        file.truncate(170_052_171)
    with pytest.raises(DataError, match="the published one c32a1d4ab5d03f1284b67883e8d87530"):
        read_cifar10(path)


class Evil:
    def __reduce__(self):
        return eval, ("1 + 1",)


def altered(**change):
    return pickle.dumps(pickle.loads(python3(3)) | {key.encode(): value for key, value in change.items()}, protocol=2)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"data_batch_1": altered(batch_label=Evil())}, r"data_batch_1: asks for __builtin__\.eval"),
        ({"data_batch_1": altered(data=np.zeros((3, 100), np.uint8))}, "data must be bytes"),
        ({"data_batch_1": altered(data=np.zeros((3, 3072), np.float32))}, "data must be bytes"),
        ({"data_batch_1": altered(labels=[1, 2])}, "labels must be a list of 3 numbers from 0 to 9"),
        ({"data_batch_1": altered(labels=[1, 2, 10])}, "labels must be a list of 3 numbers from 0 to 9"),
        ({"data_batch_1": altered(labels=["cat", 1, 2])}, "labels must be a list of 3 numbers from 0 to 9"),
        ({"data_batch_1": pickle.dumps([1, 2])}, "holds a list"),
        ({"data_batch_1": python3(3)[:5000]}, "is no readable pickle"),
        ({"data_batch_1": b""}, "data_batch_1: is empty"),
        ({"data_batch_1": python3(0)}, "has no images"),
        ({"data_batch_1.bin": binary(3)[:-1]}, "no whole number of images"),
        ({"data_batch_1.bin": b"\x0a" + bytes(3072)}, "has a label of 10"),
        ({"data_batch_1": python3(3), "data_batch_1.bin": binary(3)}, "is there twice"),
        ({"train": python3(3), "test": python3(3)}, "is not CIFAR-10: .* has none of them"),
        ({"data_batch_1": python3(3)}, "is not CIFAR-10: .* has data_batch_1"),
        ({"test_batch": python3(3)}, "is not CIFAR-10: .* has test_batch"),
    ],
)
@pytest.mark.parametrize("pack", [archive, folder])
def test_what_is_not_cifar_is_refused_in_one_line_that_says_why(tmp_path, pack, members, message):
    path = pack(tmp_path / "cifar", members)
    with pytest.raises(DataError, match=message) as refused:
        read_cifar10(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not an archive")
    with pytest.raises(DataError, match="is no whole"):
        read_cifar10(path)
    with pytest.raises(DataError, match="no such file or folder"):
        read_cifar10(tmp_path / "absent")
