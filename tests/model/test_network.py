"""The head that all models share, and training only the head."""

import zlib

import numpy as np
import pytest
from mindspore import Model, Tensor, nn

from rp2k_lab.model import create_model
from rp2k_lab.model.dropout import DropPath
from rp2k_lab.model.network import Head, first_stages, freeze, freeze_all_but_last
from rp2k_lab.model.zoo import families
from tests.helpers import numpy_layers, parity_inputs
from tests.helpers.losses import CrossEntropy

pytestmark = pytest.mark.slow


def checksums(cell) -> dict[str, int]:
    return {parameter.name: zlib.crc32(parameter.asnumpy().tobytes()) for parameter in cell.get_parameters()}


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("width", [None, 8])
def test_head_equals_widening_mean_and_classifier(width):
    head = numpy_layers.draw_parameters(Head(6, 4, width))
    x = np.random.default_rng(0).normal(size=(2, 6, 3, 5)).astype(np.float32)
    features = x.astype(np.float64)
    if width:
        widened = numpy_layers.conv(features, numpy_layers.array(head.widen.conv.weight))
        features = numpy_layers.relu(numpy_layers.norm(widened, head.widen.bn))
    expected = numpy_layers.dense(features.mean((2, 3)), head.fc)
    np.testing.assert_allclose(head(Tensor(x)).asnumpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("name", "features"),
    [("resnet18", 512), ("seresnext50", 2048), ("efficientnet_b0", 1280), ("swin_tiny", 768),
     ("inception_resnet_v2", 1536), ("convnext_tiny", 768), ("vit_small", 384)],
)  # fmt: skip
def test_head_width_adds_a_convolution_a_norm_and_the_classifiers_columns(name, features):
    plain, widened = create_model(name, 5), create_model(name, 5, head_width=3000)
    assert widened.head.fc.weight.shape == (5, 3000)
    counts = [sum(p.size for p in net.trainable_params()) for net in (plain, widened)]
    assert counts[1] - counts[0] == features * 3000 + 2 * 3000 + 5 * (3000 - features)
    names = [{p.name for p in net.get_parameters()} for net in (plain, widened)]
    assert names[1] - names[0] == {f"widen.{name}" for name in (
        "conv.weight", "bn.gamma", "bn.beta", "bn.moving_mean", "bn.moving_variance")}  # fmt: skip


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_head_width_does_not_change_the_backbones_weights(name):
    usual, widened = create_model(name, 5), create_model(name, 5, head_width=64)
    assert checksums(widened.backbone) == checksums(usual.backbone)


@pytest.mark.usefixtures("pynative")
def test_a_network_with_head_width_runs():
    net = create_model("efficientnet_lite0", 5, head_width=64)
    assert net(Tensor(parity_inputs.draw_images(2, (32, 40)))).shape == (2, 5)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50_bam", {}),
        ("efficientnet_b0", {}),
        ("inception_resnet_v2", {}),
        ("swin_tiny", {"head_width": 64}),
        ("convnext_tiny", {}),
        ("vit_small_dinov2", {}),
    ],
)
def test_with_a_frozen_backbone_only_the_head_is_trainable(name, options):
    widen = {"widen.conv.weight", "widen.bn.gamma", "widen.bn.beta"} if options else set()
    trained = {p.name for p in create_model(name, 5, freeze="backbone", drop_rate=0.5, **options).trainable_params()}
    assert trained == {"fc.weight", "fc.bias"} | widen


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("name", "options", "norm"),
    [("resnet18", {}, "layer4.1.bn2"), ("resnet50_cbam", {"freeze": "backbone"}, "layer4.2.bn3"),
     ("efficientnet_lite0", {}, "bn2"), ("inception_resnet_v2", {"depth_multiplier": 0.1}, "conv2d_7b.bn"),
     ("swin_tiny", {"head_width": 64}, "widen.bn"), ("resnet18", {"depth_multiplier": 0.25}, "layer4.0.bn2")],
)  # fmt: skip
def test_the_last_layers_are_the_classifier_and_the_norm_before_the_mean(name, options, norm):
    net = create_model(name, 5, drop_rate=0.5, width_multiplier=0.125, **options)
    norms = [cell for _, cell in net.cells_and_names() if isinstance(cell, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for with_norm in (False, True):
        freeze_all_but_last(net, with_norm)
        expected = {f"{norm}.gamma", f"{norm}.beta"} if with_norm else set()
        assert {p.name for p in net.trainable_params()} == {"fc.weight", "fc.bias"} | expected
        free = [cell.gamma.name for cell in norms if cell.use_batch_statistics is not False]
        assert free == [f"{norm}.gamma"] * with_norm


@pytest.mark.usefixtures("graph_mode")
def test_training_changes_only_the_head():
    """The backbone's running statistics stay too, and its stochastic depth counts no steps."""
    net = create_model("resnet18", 5, freeze="backbone", head_width=16)
    optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9)
    step = Model(net, CrossEntropy(), optimizer, amp_level="O0").train_network.set_train()
    backbone, head = checksums(net.backbone), checksums(net.head)
    batch = Tensor(parity_inputs.draw_images(4, (32, 32))), Tensor(np.array([0, 1, 2, 3], np.int32))
    for _ in range(2):
        step(*batch)
    assert checksums(net.backbone) == backbone
    after = checksums(net.head)
    assert {name for name in head if after[name] == head[name]} == set()


@pytest.mark.usefixtures("pynative")
def test_a_frozen_backbone_drops_no_path():
    net = create_model("resnet18", 5, freeze="backbone", drop_path_rate=0.9).set_train()
    layers = [cell for _, cell in net.cells_and_names() if isinstance(cell, DropPath)]
    x = np.random.default_rng(0).normal(size=(64, 2, 3, 3)).astype(np.float32)
    assert len(layers) == 7
    for layer in layers:
        np.testing.assert_array_equal(layer(Tensor(x)).asnumpy(), x)
        assert layer.step.asnumpy() == 0


FAMILIES = ["resnet18", "efficientnet_lite0", "convnext_tiny", "swin_tiny", "vit_small", "inception_resnet_v2"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_stage_of_a_network_can_be_frozen(name):
    """The stages have all of the backbone but what follows the last of them."""
    family, net = families()[name], create_model(name, 5, width_multiplier=1 / 3, depth_multiplier=0.1)
    assert family.num_stages == net.backbone.num_stages == len(net.backbone.parts())
    trained = [len(net.trainable_params())]
    for stage in family.stage_names()[:-1]:
        for part in first_stages(net, family.stages_up_to(stage)):
            freeze(part)
        trained.append(len(net.trainable_params()))
    assert trained == sorted(set(trained), reverse=True) or name == "vit_small"  # of one block
    rest = {p.name.split(".")[0] for p in net.backbone.trainable_params()}
    assert rest <= {"norm", "conv_head", "bn2", "conv2d_7b"}


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("vit_small", 32),
        pytest.param("efficientnet_lite0", 32, marks=pytest.mark.soak),
        pytest.param("convnext_tiny", 32, marks=pytest.mark.soak),
        pytest.param("swin_tiny", 32, marks=pytest.mark.soak),
        pytest.param("inception_resnet_v2", 96, marks=pytest.mark.soak),
    ],
)
def test_two_parts_of_a_backbone_equal_the_whole(name, size):
    backbone = create_model(name, 5, width_multiplier=1 / 3, depth_multiplier=0.3).set_train(False).backbone
    images, end = Tensor(parity_inputs.draw_images(2, (size, size))), backbone.num_stages + 1
    whole = backbone(images).asnumpy()
    for split in range(1, end + 1):
        parts = backbone.run(backbone.run(images, 0, split), split, end)
        np.testing.assert_array_equal(parts.asnumpy(), whole, err_msg=f"split after {split} stages")


def test_a_stage_that_the_network_lacks_is_refused_with_its_stages():
    message = (
        "model.freeze=stage5: resnet18 has no such stage\nuse none, stem, stage1, stage2, stage3, stage4 or backbone"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        create_model("resnet18", 5, freeze="stage5")
