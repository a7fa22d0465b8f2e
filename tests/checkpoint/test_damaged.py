"""A damaged checkpoint is an error on every worker, whatever the damage, and never a half-loaded model."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from adamesh.checkpoint.manifest import MANIFEST, read_manifest
from adamesh.comm.base import Mesh
from adamesh.comm.local import LocalCommunicator
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import CheckpointError
from tests.checkpoint.trainee import Trainee, trained
from tests.thorough import some

SHAPE = (1, 2)
NUM_FLIPS = 300


@dataclass(frozen=True)
class Damage:
    """One way in which one file is not what it was; ``content`` None: it is gone."""

    file: Path
    what: str
    content: bytes | None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "c"
    trained((1, 3), range(2), save=folder)
    return folder


def flipped(file: Path, content: bytes, position: int, bits: int) -> Damage:
    altered = bytearray(content)
    altered[position] ^= bits
    return Damage(file, f"byte {position} of {file.name} ^ {bits:#x}", bytes(altered))


def survivors(folder: Path, damages: Iterable[Damage]) -> list[str]:
    """The damages, tried one after the other, with which some worker did not get an error or was changed."""
    damages = list(damages)

    def live(mesh: Mesh) -> list[str]:
        trainee = Trainee(mesh)
        before = trainee.snapshot()
        unnoticed = []
        for damage in damages:
            whole = damage.file.read_bytes()
            mesh.world.exchange(b"read")
            if mesh.world.rank == 0:
                apply(damage)
            mesh.world.exchange(b"damaged")
            try:
                trainee.load(folder)
                unnoticed.append(damage.what)
            except CheckpointError:
                if trainee.snapshot() != before:
                    unnoticed.append(f"{damage.what}: noticed, but not in time")
            mesh.world.exchange(b"tried")
            if mesh.world.rank == 0:
                damage.file.write_bytes(whole)
            mesh.world.exchange(b"repaired")
        return unnoticed

    unnoticed = [what for found in ThreadWorld(*SHAPE).run(live) for what in found]
    trained(SHAPE, range(1), load=folder)  # whole again: it was the damage
    return unnoticed


def apply(damage: Damage) -> None:
    if damage.content is None:
        damage.file.unlink()
    else:
        damage.file.write_bytes(damage.content)


def tensor_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_a_flipped_byte_anywhere_in_the_tensors_is_noticed_by_all_before_anything_is_changed(folder):
    chance = random.Random(0)
    damages = []
    for file in tensor_files(folder):
        content = file.read_bytes()
        some = chance.sample(range(len(content)), NUM_FLIPS // len(tensor_files(folder)))
        positions = [0, 7, 8, len(content) - 1, *some]
        damages += [flipped(file, content, position, 1 << chance.randrange(8)) for position in positions]
    assert survivors(folder, damages) == []


def test_a_flipped_byte_in_the_manifest_is_noticed_by_all_before_anything_is_changed(folder):
    content = (folder / MANIFEST).read_bytes()
    head = content.index(b"\n") + 1
    positions = [*range(0, head, 3), *range(head, len(content), 199), len(content) - 1]
    assert survivors(folder, [flipped(folder / MANIFEST, content, at, 1) for at in positions]) == []


def test_no_byte_of_the_manifest_can_be_altered_unnoticed_line_endings_included(folder, tmp_path):
    content = (folder / MANIFEST).read_bytes()
    for position, byte in some(enumerate(content), 600):
        bits = ord("\n") ^ ord("\r") if byte == ord("\n") else 1 << position % 8
        apply(flipped(tmp_path / MANIFEST, content, position, bits))
        with pytest.raises(CheckpointError):
            read_manifest(tmp_path)


def test_no_cut_through_the_manifest_goes_unnoticed(folder, tmp_path):
    content = (folder / MANIFEST).read_bytes()
    for length in some(range(len(content)), 300):
        apply(Damage(tmp_path / MANIFEST, "cut", content[:length]))
        with pytest.raises(CheckpointError):
            read_manifest(tmp_path)


def test_a_file_cut_short_grown_emptied_or_gone_is_noticed_by_all_before_anything_is_changed(folder):
    damages = []
    for file in [*tensor_files(folder), folder / MANIFEST]:
        whole = file.read_bytes()
        contents: list[bytes | None] = [None, b"", whole[:7], whole[: len(whole) // 2], whole[:-1], whole + b"\0"]
        contents += [bytes(len(whole)), whole[::-1]]
        damages += [Damage(file, f"{file.name} {i}", content) for i, content in enumerate(contents)]
    assert survivors(folder, damages) == []


def test_files_that_changed_places_are_noticed(folder):
    files = tensor_files(folder)
    swapped = [(a, b) for a in files for b in files if a != b]
    assert survivors(folder, [Damage(a, f"{b.name} in place of {a.name}", b.read_bytes()) for a, b in swapped]) == []


@pytest.mark.parametrize(("version", "said"), [("0", "0"), ("2", "2"), ("null", "None")])
def test_a_manifest_of_another_version_is_refused_with_the_version_in_words(folder, tmp_path, version, said):
    content = (folder / MANIFEST).read_text()
    (tmp_path / MANIFEST).write_text(content.replace('"version": 1', f'"version": {version}', 1))
    with pytest.raises(CheckpointError, match=f"version {said}; this release reads"):
        read_manifest(tmp_path)


def test_each_worker_reads_its_share_of_the_checksums_and_a_fault_found_by_one_is_told_to_all(folder):
    damaged = tensor_files(folder)[0]
    whole = damaged.read_bytes()

    def live(mesh: Mesh) -> str:
        with pytest.raises(CheckpointError) as caught:
            Trainee(mesh).load(folder)
        return str(caught.value)

    try:
        apply(flipped(damaged, whole, len(whole) - 1, 1))
        said = ThreadWorld(1, 3).run(live)
    finally:
        damaged.write_bytes(whole)
    assert sorted(message.startswith("on worker ") for message in said) == [False, True, True]
    assert all("was altered: its sha256 is not the manifest's. Load an earlier checkpoint" in text for text in said)


def test_a_thousand_flipped_bytes_anywhere_in_a_checkpoint_are_caught_a_thousand_times(folder):
    """Of `adamesh.save` and of `adamesh.Saver` alike: what they leave is the same. The model is never touched."""
    chance = random.Random(1)
    alone = LocalCommunicator()
    trainee = Trainee(Mesh(alone, alone, alone))
    before = trainee.snapshot()
    contents = {file: file.read_bytes() for file in sorted(folder.iterdir())}
    assert {file.name for file in contents} == {MANIFEST, *(file.name for file in tensor_files(folder))}
    places = [(file, at) for file, content in contents.items() for at in range(len(content))]
    caught = 0
    for file, at in chance.sample(places, 1000):
        apply(flipped(file, contents[file], at, 1 << chance.randrange(8)))
        try:
            trainee.load(folder)
        except CheckpointError:
            caught += 1
        file.write_bytes(contents[file])
    assert caught == 1000
    assert trainee.snapshot() == before
