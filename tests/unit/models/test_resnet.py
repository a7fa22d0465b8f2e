from typing import Any

import pytest
import torch

from adamesh.models.cnn import PoolingCNN
from adamesh.models.resnet import ResNet, resnet50
from adamesh.models.resnet_cifar import CifarResNet


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


# Table 6 of the paper: 0.27 M, 0.46 M, 0.66 M, 0.85 M.
@pytest.mark.parametrize(("blocks", "millions"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85)])
def test_cifar_resnets_have_as_many_parameters_as_published(blocks, millions):
    assert num_parameters(CifarResNet(blocks, classes=10)) / 1e6 == pytest.approx(millions, abs=0.01)


def test_cifar_resnets_have_as_many_layers_as_their_name_says():
    model = CifarResNet(blocks=3, classes=10)
    assert sum(isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in model.modules()) == 20


def test_a_shortcut_has_every_other_pixel_and_zeros_for_new_channels():
    model = CifarResNet(blocks=1, classes=10).eval()
    block: Any = model.stages[1]
    with torch.no_grad():
        block.second[1].weight.zero_()
        images = torch.rand(2, 16, 8, 8)
        shortcut = block(images)
    assert shortcut.shape == (2, 32, 4, 4)
    assert torch.equal(shortcut[:, :16], images[:, :, ::2, ::2])
    assert not shortcut[:, 16:].any()


@pytest.fixture(scope="module")
def fifty():
    return resnet50()


def test_resnet50_has_as_many_parameters_as_torchvision_s(fifty):
    assert num_parameters(fifty) == 25_557_032


def test_resnet50_has_torchvision_s_names_and_shapes(fifty):
    shapes = {name: tuple(tensor.shape) for name, tensor in fifty.state_dict().items()}
    assert len(shapes) == 320
    expected = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.num_batches_tracked": (),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.running_var": (256,),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.bn3.bias": (1024,),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    }
    assert {name: shapes[name] for name in expected} == expected


def test_a_stage_s_stride_stands_in_its_first_3_x_3_convolution(fifty):
    strided = [name for name, m in fifty.named_modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2)]
    inner = [f"layer{stage}.0.{name}" for stage in (2, 3, 4) for name in ("conv2", "downsample.0")]
    assert strided == ["conv1", *inner]


def test_a_block_of_resnet50_begins_as_its_shortcut(fifty):
    features = torch.rand(2, 256, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(fifty.eval().layer1[1](features), features)


@pytest.mark.parametrize(
    ("model", "side"),
    [
        (CifarResNet(blocks=1, classes=7), 32),
        (ResNet((1, 1, 1, 1), classes=7), 32),
        (ResNet((1, 1, 1, 1), classes=7), 65),
        (PoolingCNN(channels=3, side=32, classes=7), 32),
        (PoolingCNN(channels=3, side=20, classes=7, widths=(8, 16)), 20),
    ],
)
def test_each_image_has_logits_of_its_own(model, side):
    images = torch.rand(3, 3, side, side)
    with torch.no_grad():
        together = model.eval()(images)
        alone = [model(image.unsqueeze(0)) for image in images]
    assert together.shape == (3, 7)
    torch.testing.assert_close(torch.cat(alone), together)


@pytest.mark.parametrize("model", [CifarResNet(3, 10), PoolingCNN(3, 32, 10)])
def test_every_parameter_gets_a_gradient(model):
    model(torch.rand(4, 3, 32, 32)).logsumexp(dim=1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
