"""Photographs in small, in the modes that ImageNet has, as folders or as tar archives."""

import io
import tarfile

import numpy as np
from PIL import Image


def encoded(kind="JPEG", mode="RGB", size=(40, 30), colour=None):
    """The bytes of an image of one colour, or of noise."""
    generator = np.random.default_rng(sum(size))
    pixels = generator.integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels) if colour is None else Image.new("RGB", size, colour)
    content = io.BytesIO()
    image.convert(mode, palette=Image.Palette.ADAPTIVE).save(content, kind)
    return content.getvalue()


def folders(path, **parts):
    """``train={"n01": [bytes, ...]}`` as train/n01/0.JPEG and so on."""
    for part, classes in parts.items():
        for wnid, contents in classes.items():
            place = path / part / wnid
            place.mkdir(parents=True)
            for number, content in enumerate(contents):
                (place / f"{number}.JPEG").write_bytes(content)
    return path


def shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
