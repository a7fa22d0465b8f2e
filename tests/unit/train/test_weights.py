import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from adamesh.errors import DataError
from adamesh.models.resnet_cifar import CifarResNet
from adamesh.train.weights import load_weights


def network(classes=5, seed=0):
    torch.manual_seed(seed)
    return CifarResNet(1, classes)


def saved(path, **changes):
    """A state dict of five classes, as torchvision's would be."""
    tensors = network().state_dict() | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return path


def same(mine, theirs, but=()):
    return [name for name, value in mine.state_dict().items() if not torch.equal(value, theirs.state_dict()[name])] == [
        *but
    ]


def test_all_of_a_file_that_fits_is_loaded(tmp_path):
    model = network(seed=1)
    line = load_weights(model, saved(tmp_path / "w.safetensors"))
    assert same(model, network())
    assert line == f"{len(model.state_dict())} tensors from {tmp_path / 'w.safetensors'}"


@pytest.mark.parametrize(
    "change",
    [
        {"classifier.weight": None, "classifier.bias": None},
        {"classifier.bias": torch.zeros(6)},
        {"classifier.bias": None},
    ],
)
def test_a_head_that_does_not_fit_is_left_whole_and_reported(tmp_path, change):
    model = network(seed=1)
    line = load_weights(model, saved(tmp_path / "w.safetensors", **change))
    model.classifier.load_state_dict(network().classifier.state_dict())
    assert same(model, network())
    assert line.endswith("classifier does not match and is left as initialised")


def test_a_head_of_other_classes_is_left_as_initialised(tmp_path):
    model = network(classes=3, seed=1)
    load_weights(model, saved(tmp_path / "w.safetensors"))
    assert same(model, network(classes=3, seed=1)) is False
    assert torch.equal(model.classifier.weight, network(classes=3, seed=1).classifier.weight)
    assert torch.equal(model.stem[0].weight, network().stem[0].weight)


def test_counts_of_batches_may_be_missing_and_precision_may_differ(tmp_path):
    half = {name: tensor.half() for name, tensor in network().state_dict().items() if tensor.is_floating_point()}
    counts = {name: None for name in network().state_dict() if name.endswith("num_batches_tracked")}
    model = network(seed=1)
    load_weights(model, saved(tmp_path / "w.safetensors", **half, **counts))
    assert torch.equal(model.stem[0].weight, half["stem.0.weight"].float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem.0.weight": torch.zeros(16, 1, 3, 3)}, r"stem\.0\.weight is of shape \[16, 1, 3, 3\] in the file"),
        ({"stem.1.weight": None}, r"stem\.1\.weight is missing in the file and of shape \[16\] in the model"),
        (
            {"more": torch.zeros(3)},
            r"more is of shape \[3\] in the file and missing in the model; only the head, classifier",
        ),
        ({"stem.1.weight": None, "stem.1.bias": None}, "and 1 more like it"),
    ],
)
def test_any_other_difference_is_refused_and_changes_nothing(tmp_path, change, message):
    model = network(seed=1)
    with pytest.raises(DataError, match=message):
        load_weights(model, saved(tmp_path / "w.safetensors", **change))
    assert same(model, network(seed=1))


def test_a_file_that_is_missing_or_damaged_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_weights(nn.Linear(1, 1), tmp_path / "absent.safetensors")
    path = saved(tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="is no readable safetensors file"):
        load_weights(network(), path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DataError, match="is no readable safetensors file"):
        load_weights(network(), tmp_path / "text")
