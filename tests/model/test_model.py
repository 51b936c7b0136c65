"""Every model of the zoo: size, shapes, weights, files, configuration; test_parity.py tests values and training."""

import subprocess
import sys
from typing import Literal

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.amp import FixedLossScaleManager
from mindspore.nn.utils import no_init_parameters

from rp2k_lab import PROJECT, plugins
from rp2k_lab.config.schema import parse
from rp2k_lab.model import create_model, list_models
from rp2k_lab.model.custom_operators import plain_operators
from rp2k_lab.model.family import Model
from rp2k_lab.model.resnet import ResNet
from rp2k_lab.model.weights.torch_names import torch_name
from rp2k_lab.train.build import create_network
from rp2k_lab.train.checkpoint import load_checkpoint, save_checkpoint
from tests.helpers import parity_inputs
from tests.helpers.losses import CrossEntropy
from tests.helpers.zoo import SLOW, no_weights

pytestmark = pytest.mark.slow

# Parameters at 1000 classes of the reference implementations (published.md); resnet18: torchvision.
PUBLISHED = {
    "resnet18": 11_689_512, "resnet50": 25_557_032, "resnet101": 44_549_160, "seresnet50": 28_088_024,
    "seresnext50": 27_559_896, "resnet50_bam": 25_915_099, "resnet50_cbam": 28_089_624, "swin_tiny": 28_288_354,
    "efficientnet_b0": 5_288_548, "efficientnet_lite0": 4_652_008, "inception_resnet_v2": 55_843_464,
    "convnext_tiny": 28_589_128, "vit_small": 22_050_664, "vit_small_dinov2": 22_056_192 + 385_000,
}  # fmt: skip
# timm's tf_efficientnet_lite1 and lite2.
PUBLISHED |= {"efficientnet_lite1": 5_416_680, "efficientnet_lite2": 6_092_072}
VARIANTS = {f"{name}_wider" for name in ("inception_resnet_v2", "resnet50_bam", "seresnext50")}
VARIANTS |= {"efficientnet_lite1", "efficientnet_lite2"}
CHOICES = sorted(file.stem for file in (PROJECT / "conf" / "model").glob("[!_]*.yaml"))


def count(net) -> int:
    return sum(parameter.size for parameter in net.trainable_params())


def weights(net) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}


@pytest.fixture(scope="module", params=list_models())
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def net(name):
    """Return a network with weights as if trained; initial residual branches are zero and would hide mistakes."""
    with no_weights():
        net = create_model(name, 7)
    for parameter in net.get_parameters():
        parameter.set_data(Tensor(parity_inputs.draw_weight(torch_name(parameter.name), parameter.shape)))
    return net.set_train(False)


@pytest.fixture(scope="module")
def images(net) -> Tensor:
    """Return the smallest images that the network takes."""
    return Tensor(parity_inputs.draw_images(2, (net.backbone.smallest_input,) * 2))


@pytest.fixture(scope="module")
def logits(net, images, _first_pynative_operation) -> np.ndarray:
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    logits = net(images).asnumpy()
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    return logits


@pytest.mark.usefixtures("undrawn")
def test_parameter_count_is_the_published_one(name):
    assert count(create_model(name, 1000)) == PUBLISHED[name]


@pytest.mark.parametrize("name", SLOW, indirect=True)
def test_logits_depend_on_the_image(logits):
    assert (logits.shape, logits.dtype) == ((2, 7), np.float32)
    assert np.isfinite(logits).all()
    assert np.abs(logits[0] - logits[1]).max() > 1e-3 * logits.std()


@pytest.mark.parametrize("name", SLOW, indirect=True)
@pytest.mark.usefixtures("pynative")
def test_images_need_not_be_square(net, logits):
    least = net.backbone.smallest_input
    wide = parity_inputs.draw_images(2, (least, least + max(8, net.backbone.input_multiple)))
    result = net(Tensor(wide)).asnumpy()
    assert result.shape == logits.shape
    assert np.isfinite(result).all()


@pytest.mark.parametrize("name", SLOW, indirect=True)
@pytest.mark.usefixtures("pynative")
def test_saved_and_loaded_gives_equal_logits(net, name, images, logits, tmp_path):
    save_checkpoint(net, tmp_path / "a.ckpt", 5)
    with no_weights():
        other = create_model(name, 7).set_train(False)
    load_checkpoint(other, tmp_path / "a.ckpt")
    np.testing.assert_array_equal(other(images).asnumpy(), logits)


@pytest.mark.parametrize("name", SLOW, indirect=True)
@pytest.mark.usefixtures("pynative")
def test_mindir_gives_equal_logits(net, name, images, logits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with plain_operators():
        mindspore.export(net, images, file_name=name, file_format="MINDIR")
    exported = nn.GraphCell(mindspore.load(f"{name}.mindir"))
    np.testing.assert_allclose(exported(images).asnumpy(), logits, rtol=0, atol=1e-4 * logits.std())


def test_every_weight_is_drawn_from_the_seed(name, monkeypatch):
    """No weight comes from MindSpore's generator; test_init.py tests the distributions."""
    seeds = set()

    class Sevens:
        def __init__(self, key):
            seeds.add(key[0])

        def normal(self, _, __, shape):
            return np.full(shape, 7.0)

        uniform = normal

    monkeypatch.setattr(np.random, "default_rng", Sevens)
    with no_init_parameters():
        net = create_model(name, 7, seed=3)
    assert seeds == {3}
    for parameter in net.get_parameters():
        values = set(np.unique(parameter.init_data().asnumpy()))
        layer_scales = [{np.float32(1e-6)}, {np.float32(1e-5)}]
        constants = layer_scales if parameter.name.endswith(".scale") else [{0}, {1}]
        assert values == {7} if parameter.ndim > 1 else values in constants, parameter.name


def test_names_are_sorted_and_unknown_ones_are_refused():
    assert list_models() == sorted(PUBLISHED.keys() - VARIANTS)
    with pytest.raises(ValueError, match="resnet18") as error:
        create_model("resnet19", 10)
    assert "resnet19" in str(error.value)


def test_weights_depend_only_on_the_seed():
    """Earlier networks of the process and the frameworks' generators have no influence."""
    first = weights(create_model("efficientnet_lite0", 7, seed=3))
    mindspore.set_seed(99)
    np.random.seed(99)
    create_model("resnet18", 2)
    again = weights(create_model("efficientnet_lite0", 7, seed=3))
    other = weights(create_model("efficientnet_lite0", 7, seed=4))
    assert first.keys() == again.keys()
    for key, values in first.items():
        np.testing.assert_array_equal(again[key], values)
        assert values.ndim == 1 or (other[key] != values).mean() > 0.99, key


@pytest.mark.parametrize("choice", CHOICES)
class TestYaml:
    def test_keys_are_the_options(self, compose, choice):
        family = plugins.options_of("model")[choice]
        assert compose(f"model={choice}")["model"].keys() == family.model_fields.keys()

    @pytest.mark.usefixtures("undrawn")
    def test_builds_the_network_of_its_name(self, compose, choice):
        config = parse(compose(f"model={choice}", "size=224"))
        assert config.model.name == choice
        network = create_network(config, 1000)
        assert count(network) == (PUBLISHED.get(choice) or count(create_model(choice, 1000)))
        features = network.head.fc.weight.shape[1]
        assert features == network.backbone.num_features
        assert (features == 4096) == choice.endswith("_wider")


def test_every_name_has_a_yaml():
    assert sorted(plugins.options_of("model")) == CHOICES
    assert [choice for choice in CHOICES if choice not in VARIANTS] == list_models()


def test_options_are_imported_without_mindspore():
    code = "import sys, rp2k_lab.model.family.vit, rp2k_lab.model; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


class Plain(Model):
    """A family of an installed package, without sources."""

    name: Literal["plain"]
    channels: int

    def backbone(self):
        cell = nn.Conv2d(3, self.channels, 4, 4)
        cell.num_features = self.channels
        return cell


def test_networks_of_installed_packages_are_listed_and_built(monkeypatch):
    monkeypatch.setitem(plugins._registered["model"], "plain", Plain)
    assert list_models() == sorted([*PUBLISHED.keys() - VARIANTS, "plain"])
    assert create_model("plain", 5, channels=6).head.fc.weight.shape == (5, 6)
    with pytest.raises(TypeError, match=r"^plain has no option width\nuse channels, depth_multiplier, width_multi"):
        create_model("plain", 5, channels=6, width=2)


@pytest.mark.usefixtures("undrawn")
class TestFinalWidth:
    @pytest.mark.parametrize(
        ("name", "width"),
        [("resnet18", 256), ("resnet50_cbam", 1024), ("resnet50_bam", 4096), ("inception_resnet_v2", 100)],
    )
    def test_sets_the_features_before_the_classifier(self, name, width):
        net = create_model(name, 5, final_width=width)
        assert net.head.fc.weight.shape == (5, width)
        assert net.backbone.num_features == width

    @pytest.mark.parametrize("name", ["resnet50_bam", "seresnext50"])
    def test_sets_only_the_last_stages_planes(self, name):
        usual, wider = create_model(name, 5), create_model(name, 5, final_width=4096)
        shapes = [{p.name: p.shape for p in net.backbone.get_parameters()} for net in (usual, wider)]
        changed = {key for key in shapes[0] if shapes[0][key] != shapes[1][key]}
        assert shapes[0].keys() == shapes[1].keys()
        assert changed == {key for key in shapes[0] if key.startswith("layer4.")}
        convolutions = {"layer4.0.conv1.weight", "layer4.0.conv3.weight", "layer4.0.downsample.0.weight"}
        for key in convolutions:
            assert shapes[1][key][0] == 2 * shapes[0][key][0]

    def test_sets_only_the_last_convolution(self):
        usual, wider = (create_model(f"inception_resnet_v2{suffix}", 5) for suffix in ("", "_wider"))
        # 1×1 convolution, scale, shift; classifier without its bias.
        assert count(wider) - count(usual) == (4096 - 1536) * (2080 + 2 + 5)

    def test_wider_adds_the_published_47_million(self):
        wider, usual = (create_model(name, 2388) for name in ("seresnext50_wider", "seresnext50"))
        assert (count(wider) - count(usual)) / 1e6 == pytest.approx(47, abs=0.5)

    @pytest.mark.parametrize("name", ["inception_resnet_v2_wider", "resnet50_bam_wider", "seresnext50_wider"])
    def test_of_a_wider_name_is_4096(self, name):
        assert create_model(name, 5).head.fc.weight.shape == (5, 4096)

    def test_of_a_wider_name_can_be_set(self):
        assert create_model("seresnext50_wider", 5, final_width=2048).backbone.num_features == 2048

    @pytest.mark.parametrize("width", [4095, 2050, 4, 1])
    def test_not_divisible_is_refused(self, width):
        with pytest.raises(ValueError, match=rf"model\.final_width={width}: .* needs a multiple of (4|64)$"):
            create_model("seresnext50", 5, final_width=width)


@pytest.mark.usefixtures("pynative")
def test_an_unusual_width_runs():
    net = create_model("resnet18", 5, final_width=96)
    assert net(Tensor(parity_inputs.draw_images(2, (32, 32)))).shape == (2, 5)


def test_a_wider_last_stage_does_not_change_other_weights():
    one, other = weights(create_model("resnet18", 5)), weights(create_model("resnet18", 5, final_width=256))
    before = [key for key in one if not key.startswith(("layer4", "fc"))]
    assert len(before) > 50
    for key in before:
        np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.usefixtures("undrawn")
def test_the_contest_entrys_network():
    """With cardinality 7 it has 11.8 million parameters at 1000 classes (published.md)."""
    assert count(create_model("seresnext50", 1000, cardinality=7)) / 1e6 == pytest.approx(11.8, abs=0.05)


@pytest.mark.parametrize("options", [{"cardinality": 32}, {"base_width": 4}])
def test_groups_need_bottlenecks(options):
    with pytest.raises(ValueError, match="bottleneck"):
        create_model("resnet18", 5, **options)


def test_unknown_depth():
    with pytest.raises(ValueError, match="18, 50, 101"):
        ResNet(depth=34)


@pytest.mark.soak
@pytest.mark.usefixtures("graph_mode")
@pytest.mark.parametrize("name", ["convnext_tiny", "swin_tiny", "vit_small_dinov2"])
def test_networks_with_layer_norms_train_in_mixed_precision(name):
    """Without a loss scale, gradients behind ConvNeXt's initial layer scale, 1e-6, would be zero in float16."""
    net = create_model(name, 4, drop_path_rate=0.1, width_multiplier=1 / 3, depth_multiplier=0.2)
    before = {parameter.name: parameter.asnumpy().copy() for parameter in net.trainable_params()}
    optimizer = nn.Momentum(net.trainable_params(), 0.01, 0.9, loss_scale=1024.0)
    manager = FixedLossScaleManager(1024.0, drop_overflow_update=False)
    model = mindspore.Model(net, CrossEntropy(0.1), optimizer, amp_level="O2", loss_scale_manager=manager)
    step = model.train_network.set_train()
    side = net.backbone.smallest_input * 2
    batch = Tensor(parity_inputs.draw_images(8, (side, side))), Tensor((np.arange(8) % 4).astype(np.int32))
    losses = [float(step(*batch).asnumpy()) for _ in range(8)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    for parameter in net.trainable_params():
        values = parameter.asnumpy()
        assert np.isfinite(values).all()
        # The steps of norms behind that layer scale are smaller than float32 resolves near 1.
        assert parameter.ndim == 1 or (values != before[parameter.name]).any(), parameter.name
