"""Every model of the zoo: size, shapes, weights, files, configuration; test_parity.py tests values and training."""

import inspect

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters

from rp2k_lab import PROJECT
from rp2k_lab import model as zoo
from rp2k_lab.config.schema import parse
from rp2k_lab.model import create_model, list_models
from rp2k_lab.model.resnet import ResNet
from rp2k_lab.model.weights.torch_names import torch_name
from rp2k_lab.train.build import create_network
from rp2k_lab.train.checkpoint import load_checkpoint, save_checkpoint
from tests.helpers import parity_inputs
from tests.helpers.zoo import SLOW, no_weights

pytestmark = pytest.mark.slow

# Parameters at 1000 classes of the reference implementations (published.md); resnet18: torchvision.
PUBLISHED = {
    "resnet18": 11_689_512, "resnet50": 25_557_032, "resnet101": 44_549_160, "seresnet50": 28_088_024,
    "seresnext50": 27_559_896, "resnet50_bam": 25_915_099, "resnet50_cbam": 28_089_624, "swin_tiny": 28_288_354,
    "efficientnet_b0": 5_288_548, "efficientnet_lite0": 4_652_008, "inception_resnet_v2": 55_843_464,
}  # fmt: skip
CHOICES = sorted(file.stem for file in (PROJECT / "conf" / "model").glob("[!_]*.yaml"))
# Builder arguments that a name fixes; every other argument is a key of its YAML.
STRUCTURE = {"depth", "attention", "stage_attention", "lite"}


def count(net) -> int:
    return sum(parameter.size for parameter in net.trainable_params())


def weights(net) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}


def arguments(builder) -> set[str]:
    return set(inspect.signature(getattr(builder, "func", builder)).parameters)


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
    wide = parity_inputs.draw_images(2, (least, least + 8))
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
        assert values == {7} if parameter.ndim > 1 else values in ({0}, {1}), parameter.name


def test_names_are_sorted_and_unknown_ones_are_refused():
    assert list_models() == sorted(PUBLISHED)
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
    def test_keys_are_the_arguments(self, compose, choice):
        common = arguments(create_model) - {"num_classes", "seed", "options"} | {"pretrained"}
        own = arguments(zoo._MODELS[zoo._WIDER.get(choice, choice)]) - STRUCTURE
        assert set(compose(f"model={choice}")["model"]) == common | own

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
    assert sorted(CHOICES) == sorted([*list_models(), *zoo._WIDER])


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
