"""The image tasks on data in their real formats, in small."""

import pytest
import torch

from adamesh.data.cifar import CIFAR10_NORMALISATION
from adamesh.data.split import AugmentedSplit
from adamesh.errors import DataError
from adamesh.tasks.base import BinaryTask, Predicts
from adamesh.tasks.catalog import find_task
from adamesh.tasks.cifar10_airplane import Cifar10Airplane
from adamesh.tasks.cifar10_cnn import Cifar10CNN
from adamesh.tasks.imagenet_resnet50 import ImageNetResNet50
from tests.unit.data.cifar_archives import archive, contents, python2, rows
from tests.unit.data.photo_files import encoded, folders

CIFAR = ("cifar10-cnn", "cifar10-resnet20", "cifar10-airplane")


class Constant(torch.nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits.expand(len(images), -1)


@pytest.fixture
def cifar(tmp_path):
    return archive(tmp_path / "cifar.tar.gz", contents(python2, per_batch=6))


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_is_read_with_augmentation_and_the_header_says_that_it_is_real(cifar, name):
    splits = find_task(name).load_data(cifar, seed=0)
    assert splits.source == f"CIFAR-10 from {cifar}: real, 12 for training, 6 for testing"
    assert isinstance(splits.train, AugmentedSplit)
    images, labels = splits.test.batch(torch.arange(6))
    assert images.shape == (6, 3, 32, 32)
    assert labels.tolist() == rows(6, seed=2)[0].tolist()


@pytest.mark.parametrize("name", [*CIFAR, "imagenet-resnet50"])
def test_without_data_the_header_says_that_they_are_drawn(name):
    source = find_task(name).load_data(None, seed=0).source
    assert source.startswith("generated drawings")
    assert "real" not in source


def test_how_real_data_are_split_does_not_depend_on_the_seed(cifar):
    one, other = (Cifar10CNN().load_data(cifar, seed).train.batch(torch.arange(12)) for seed in (0, 1))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_aeroplanes_are_the_positive_class():
    task = Cifar10Airplane()
    assert isinstance(task, BinaryTask)
    batch = torch.rand(5, 3, 32, 32), torch.tensor([0, 3, 0, 9, 1])
    logits, is_positive = task.scores(Constant(2.0), batch)
    assert logits.tolist() == [2.0] * 5
    assert is_positive.tolist() == [1, 0, 1, 0, 0]
    assert task.metrics(Constant(2.0), batch)["accuracy"] == 2
    assert task.metrics(Constant(-2.0), batch)["accuracy"] == 3
    # Of a logit x, -log sigmoid(x) for positives and -log sigmoid(-x) for negatives.
    expected = -torch.nn.functional.logsigmoid(torch.tensor([2.0, -2, 2, -2, -2])).mean()
    torch.testing.assert_close(task.loss(Constant(2.0), batch), expected)


def test_the_first_five_guesses_count_too():
    metrics = ImageNetResNet50().metrics(
        Constant(*map(float, range(8))), (torch.rand(4, 3, 32, 32), torch.tensor([7, 6, 3, 2]))
    )
    assert metrics["accuracy"] == 1
    assert metrics["top5_accuracy"] == 3


def test_photographs_are_read_at_224_pixels(tmp_path):
    photo = encoded(size=(50, 60))
    folders(tmp_path, train={"n01": [photo], "n02": [photo]}, val={"n02": [photo]})
    splits = ImageNetResNet50().load_data(tmp_path, seed=0)
    assert splits.source == (f"photographs from {tmp_path} (folders, 2 classes): real, 2 for training, 1 for testing")
    images, labels = splits.test.batch(torch.tensor([0]))
    assert images.shape == (1, 3, 224, 224)
    assert labels.tolist() == [1]
    assert isinstance(splits.train, AugmentedSplit)


@pytest.mark.parametrize(
    ("name", "logits", "said"),
    [
        ("cifar10-cnn", [0.0] * 9 + [30.0], {"class": "truck", "probability": 1.0}),
        ("cifar10-resnet20", [30.0] + [0.0] * 9, {"class": "airplane", "probability": 1.0}),
        ("cifar10-airplane", [0.0], {"airplane": 0.5}),
        ("imagenet-resnet50", [0.0, 0.0, 30.0], {"class": 2, "probability": 1.0}),
    ],
)
def test_photographs_are_predicted_by_name(tmp_path, name, logits, said):
    task = find_task(name)
    assert isinstance(task, Predicts)
    for file in ("b.png", "a.JPEG"):
        (tmp_path / file).write_bytes(encoded("PNG"))
    (tmp_path / "notes.txt").write_text("x")
    records = task.predict(Constant(*logits), task.read_inputs(tmp_path))
    assert records == [{"file": file, **said} for file in ("a.JPEG", "b.png")]


def test_one_photograph_is_prepared_as_training_prepared_them(tmp_path):
    (tmp_path / "a").write_bytes(encoded("PNG", size=(32, 32), colour=(255, 0, 51)))
    names, images = Cifar10CNN().read_inputs(tmp_path / "a")
    assert names == ["a"]
    expected = CIFAR10_NORMALISATION(torch.tensor([255, 0, 51], dtype=torch.uint8).reshape(1, 3, 1, 1))
    torch.testing.assert_close(images, expected.expand(1, 3, 32, 32))


def test_a_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no images"):
        Cifar10CNN().read_inputs(tmp_path)
