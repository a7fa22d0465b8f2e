"""CIFAR-10 in small: archives and folders in each of the formats, with whatever a test wants in them."""

import io
import pickle
import struct
import tarfile

import numpy as np

NAMES = ("data_batch_1", "data_batch_2", "test_batch")


def rows(num, seed=0):
    """Labels and pixels of ``num`` images."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 10, num, np.uint8), generator.integers(0, 256, (num, 3072), np.uint8)


def binary(num, seed=0):
    labels, pixels = rows(num, seed)
    return np.concatenate([labels[:, None], pixels], axis=1).tobytes()


def python3(num, seed=0, protocol=2):
    labels, pixels = rows(num, seed)
    names = [b"image %d" % n for n in range(num)]
    batch = {b"batch_label": b"", b"labels": labels.tolist(), b"data": pixels, b"filenames": names}
    return pickle.dumps(batch, protocol=protocol)


def python2(num, seed=0):
    """What cPickle of Python 2 and the NumPy of its time wrote, opcode by opcode: texts are bytes."""
    labels, pixels = rows(num, seed)

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def number(value):
        return b"K" + bytes([value])

    content = b"T" + struct.pack("<i", pixels.size) + pixels.tobytes()
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    shape = b"(M" + struct.pack("<H", num) + b"M" + struct.pack("<H", 3072) + b"t"
    dtype = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = empty + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"
    items = text(b"labels") + b"](" + b"".join(number(label) for label in labels.tolist()) + b"e"
    return b"\x80\x02}(" + text(b"batch_label") + text(b"batch 1 of 5") + text(b"data") + array + items + b"u."


def contents(kind, per_batch=3):
    """Name to content of three batches."""
    suffix = ".bin" if kind is binary else ""
    return {f"{name}{suffix}": kind(per_batch, seed) for seed, name in enumerate(NAMES)}


def archive(path, members, folder="cifar-10-batches-py"):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def folder(path, members):
    path.mkdir(parents=True)
    for name, content in members.items():
        (path / name).write_bytes(content)
    return path
