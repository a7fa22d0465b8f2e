import json

import pytest
import torch

from adamesh.data.imagenet import read_imagenet
from adamesh.errors import DataError
from tests.unit.data.photo_files import encoded, folders, shard

PHOTO = encoded(size=(9, 8))
OTHER = encoded(size=(8, 9))
FOLDERS = {"train": {"n03": [PHOTO], "n01": [OTHER, PHOTO], "n02": [OTHER]}, "val": {"n02": [PHOTO], "n03": [OTHER]}}
TRAIN = {"0.jpg": PHOTO, "0.cls": b"2", "1.jpg": OTHER, "1.cls": b"0\n"}
VAL = {"0.jpg": OTHER, "0.cls": b"0"}


def read(path, most_classes=1000):
    return read_imagenet(path, side=8, most_classes=most_classes)


def labels_of(split):
    return split.batch(torch.arange(len(split)))[1].tolist()


def test_classes_are_numbered_by_their_sorted_names_and_alike_in_both_parts(tmp_path):
    found = read(folders(tmp_path, **FOLDERS))
    assert labels_of(found.train) == [0, 0, 1, 2]
    assert labels_of(found.test) == [1, 2]
    assert found.origin.endswith("(folders, 3 classes)")


def test_files_that_are_no_images_are_passed_over(tmp_path):
    folders(tmp_path, **FOLDERS)
    (tmp_path / "train" / "n01" / "notes.txt").write_text("x")
    (tmp_path / "train" / "n01" / "more.jpg").write_bytes(PHOTO)
    (tmp_path / "train" / "classes.csv").write_text("x")
    assert len(read(tmp_path).train) == 5


@pytest.mark.parametrize("names", [("train/a.tar", "val/b.tar"), ("imagenet-train-0.tar", "imagenet-validation-0.tar")])
def test_shards_lie_in_folders_or_say_in_their_names_what_they_are_for(tmp_path, names):
    shard(tmp_path / names[0], TRAIN)
    shard(tmp_path / names[1], VAL)
    found = read(tmp_path)
    assert (labels_of(found.train), labels_of(found.test)) == ([2, 0], [0])
    assert "WebDataset" in found.origin


@pytest.mark.parametrize(
    ("label", "number"),
    [
        ({"0.cls": b"1"}, 1),
        ({"0.json": json.dumps({"label": 1, "file": "x"}).encode()}, 1),
        ({"0.json": json.dumps({"cls": 1}).encode()}, 1),
        ({"0.json": b"1"}, 1),
        ({"0.cls": b"1", "0.json": json.dumps({"label": 7}).encode()}, 1),
        ({"0.json": json.dumps({"label": 7}).encode(), "0.cls": b"1"}, 1),
    ],
)
def test_a_sample_s_label_is_in_its_cls_or_json(tmp_path, label, number):
    shard(tmp_path / "train.tar", {"0.jpeg": PHOTO, **label})
    shard(tmp_path / "val.tar", {"0.png": encoded("PNG"), **label})
    assert labels_of(read(tmp_path).test) == [number]


def test_names_in_shards_are_sorted_too(tmp_path):
    shard(tmp_path / "train.tar", {"b.jpg": PHOTO, "b.cls": b"n02", "a.jpg": PHOTO, "a.json": b'{"wnid": "n01"}'})
    shard(tmp_path / "val.tar", {"b.jpg": PHOTO, "b.cls": b"n02"})
    found = read(tmp_path)
    assert (labels_of(found.train), labels_of(found.test)) == ([1, 0], [1])


def test_images_of_a_shard_are_the_ones_that_were_put_in(tmp_path):
    shard(tmp_path / "train.tar", TRAIN)
    shard(tmp_path / "val.tar", VAL)
    folders(tmp_path / "same", train={"0": [OTHER], "2": [PHOTO]}, val={"0": [OTHER]})
    in_shards, in_folders = read(tmp_path).train, read(tmp_path / "same").train
    assert torch.equal(in_shards.batch(torch.tensor([1, 0]))[0], in_folders.batch(torch.tensor([0, 1]))[0])


def bad_shard(folder, members):
    shard(folder / "train.tar", members)
    shard(folder / "val.tar", VAL)
    return folder


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"0.jpg": PHOTO, "1.jpg": PHOTO, "1.cls": b"0"}, "sample 0 has no label"),
        ({"0.cls": b"0"}, "sample 0 has no image"),
        ({"0.jpg": PHOTO, "0.json": b"{}"}, r"0\.json is no label: it has neither"),
        ({"0.jpg": PHOTO, "0.json": b"{"}, r"0\.json is no label"),
        ({"0.jpg": PHOTO, "0.cls": b"\xff"}, r"0\.cls is no label"),
        ({"0.jpg": PHOTO, "0.cls": b""}, r"0\.cls is no label"),
        ({"0.jpg": PHOTO, "0.cls": b"0" * (1 << 21)}, r"0\.cls has 2,097,152 bytes"),
        ({"0.jpg": PHOTO, "0.cls": b"1000"}, "class number 1000; the model has the classes 0 to 999"),
        ({"0.jpg": PHOTO, "0.cls": b"cat", "1.jpg": PHOTO, "1.cls": b"3"}, "some labels are numbers"),
        ({"0.jpg": PHOTO, "0.cls": b"3"}, "val has the class 0, which train has not"),
        ({}, "has no images in train"),
    ],
)
def test_a_shard_that_cannot_be_right_is_refused(tmp_path, members, message):
    with pytest.raises(DataError, match=message):
        read(bad_shard(tmp_path, members))


def test_a_shard_that_is_cut_anywhere_is_refused(tmp_path):
    bad_shard(tmp_path, TRAIN)
    whole = (tmp_path / "train.tar").read_bytes()
    for stop in range(0, 4 * 1024, 512):
        (tmp_path / "train.tar").write_bytes(whole[:stop])
        with pytest.raises(DataError, match=r"train\.tar: (is no whole|ends early)"):
            read(tmp_path)


def test_a_compressed_shard_is_refused(tmp_path):
    bad_shard(tmp_path, TRAIN)
    (tmp_path / "train.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(DataError, match="is no whole, uncompressed"):
        read(tmp_path)


def test_folders_in_another_layout_are_refused_with_the_one_that_is_expected(tmp_path):
    with pytest.raises(DataError, match="absent: no such folder"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match="train: no such folder; images lie in train/<wnid>"):
        read(tmp_path)
    folders(tmp_path / "a", train=FOLDERS["train"], val={".": [PHOTO]})
    with pytest.raises(DataError, match="val: has images and no folders"):
        read(tmp_path / "a")
    folders(tmp_path / "b", train=FOLDERS["train"], val={"n09": [PHOTO]})
    with pytest.raises(DataError, match="val has the class n09"):
        read(tmp_path / "b")
    with pytest.raises(DataError, match="class number 2; the model has the classes 0 to 1"):
        read(folders(tmp_path / "c", **FOLDERS), most_classes=2)
    folders(tmp_path / "d", train={"n01": []}, val=FOLDERS["val"])
    with pytest.raises(DataError, match="has no images in train"):
        read(tmp_path / "d")
