"""Every model of the zoo: size, shape, weights, files, configuration, training."""

import inspect

import mindspore
import numpy as np
import pytest
import yaml
from mindspore import Tensor, nn

from rp2k_lab import PROJECT
from rp2k_lab import model as zoo
from rp2k_lab.checkpoint import load_checkpoint, save_checkpoint
from rp2k_lab.loss import CrossEntropy
from rp2k_lab.model import Normalise, create_model, list_models
from rp2k_lab.model.resnet import ResNet

# Parameters at 1000 classes of the reference implementations (published.md); resnet18: torchvision.
PUBLISHED = {
    "resnet18": 11_689_512, "resnet50": 25_557_032, "resnet101": 44_549_160, "seresnet50": 28_088_024,
    "seresnext50": 27_559_896, "resnet50_bam": 25_915_099, "resnet50_cbam": 28_089_624, "swin_tiny": 28_288_354,
    "efficientnet_b0": 5_288_548, "efficientnet_lite0": 4_652_008, "inception_resnet_v2": 55_843_464,
}  # fmt: skip
MODELS = [name for name in list_models() if not name.endswith("_wider")]
# What a name fixes about its builder; every other argument is a key of its YAML.
STRUCTURE = {"num_classes", "depth", "attention"}


def conf(name):
    return yaml.safe_load((PROJECT / "conf" / "model" / f"{name}.yaml").read_text(encoding="utf-8"))


def count(net):
    return sum(parameter.size for parameter in net.trainable_params())


def images(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def weights(net):
    return {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}


def test_names_are_sorted_and_unknown_ones_are_refused():
    assert list_models() == sorted(list_models())
    with pytest.raises(ValueError, match="resnet18") as error:
        create_model("resnet19", 10)
    assert "resnet19" in str(error.value)


@pytest.fixture(scope="module")
def nets():
    """One network a name, since drawing 25 million weights takes half a second."""
    return {}


@pytest.fixture
def net(nets, name):
    if name not in nets:
        nets[name] = create_model(name, 7, seed=3).set_train(False)
    return nets[name]


@pytest.fixture
def undrawn(monkeypatch):
    """For tests that only count parameters."""
    monkeypatch.setattr(zoo, "initialise", lambda net, seed: None)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("undrawn")
def test_parameter_count_is_the_published_one(name):
    assert count(create_model(name, 1000)) == PUBLISHED[name]


@pytest.mark.parametrize("name", MODELS)
class TestEvery:
    @pytest.mark.parametrize("side", [(64, 64), (64, 96)])
    @pytest.mark.usefixtures("pynative")
    def test_forward_shape(self, net, side):
        logits = net(images(2, 3, *side)).asnumpy()
        assert (logits.shape, logits.dtype) == ((2, 7), np.float32)
        assert np.isfinite(logits).all()
        assert np.ptp(logits, axis=0).max() > 0, "the logits do not depend on the picture"

    def test_seed_alone_decides_the_weights(self, net, name):
        """Whatever was built before in the process, and however far the frameworks' own generators went on."""
        mindspore.set_seed(99)
        np.random.seed(99)
        create_model("resnet18", 2)
        again, first = weights(create_model(name, 7, seed=3)), weights(net)
        assert again.keys() == first.keys()
        assert all((again[key] == first[key]).all() for key in first)

    def test_other_seed_draws_other_weights(self, net, name):
        first, other = weights(net), weights(create_model(name, 7, seed=4))
        for cell_name, cell in net.cells_and_names():
            if isinstance(cell, (nn.Conv2d, nn.Dense)):
                key = f"{cell_name}.weight"
                assert (first[key] != other[key]).all() or (first[key] != other[key]).mean() > 0.99, key

    @pytest.mark.usefixtures("pynative")
    def test_saved_and_loaded_gives_equal_logits(self, net, name, tmp_path):
        x = images(2, 3, 64, 64)
        save_checkpoint(net, tmp_path / "a.ckpt", 5)
        other = create_model(name, 7, seed=8).set_train(False)
        before = other(x).asnumpy()
        load_checkpoint(other, tmp_path / "a.ckpt")
        np.testing.assert_array_equal(other(x).asnumpy(), net(x).asnumpy())
        assert (before != net(x).asnumpy()).any()

    @pytest.mark.usefixtures("undrawn")
    def test_yaml_gives_the_defaults(self, net, name):
        options = conf(name)
        assert options.pop("name") == name
        builder = zoo._MODELS[name]
        assert set(options) == set(inspect.signature(getattr(builder, "func", builder)).parameters) - STRUCTURE
        assert count(create_model(name, 7, **options)) == count(net)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("graph_mode")
def test_a_few_steps_lower_the_loss(name):
    """As task=train: uint8 images, Normalise, Model with loss and optimizer, graph mode."""
    rng = np.random.default_rng(0)
    batch = Tensor(rng.integers(0, 256, (4, 32, 32, 3), np.uint8)), Tensor(np.array([0, 1, 2, 3], np.int32))
    net = nn.SequentialCell([Normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), create_model(name, 4)])
    optimizer = nn.Momentum(net.trainable_params(), 0.01, 0.9)
    step = mindspore.Model(net, CrossEntropy(), optimizer, amp_level="O0").train_network.set_train()
    losses = [float(step(*batch).asnumpy()) for _ in range(6)]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]


class TestFinalWidth:
    @pytest.mark.usefixtures("undrawn")
    @pytest.mark.parametrize(("name", "width"), [("resnet18", 256), ("seresnext50", 4096)])
    def test_sets_the_features_before_the_classifier(self, name, width):
        net = create_model(name, 5, final_width=width)
        assert net.fc.weight.shape == (5, width)
        assert count(net) != count(create_model(name, 5))

    @pytest.mark.usefixtures("undrawn")
    def test_wider_adds_the_published_47_million(self):
        wider = create_model("seresnext50", 2388, final_width=4096)
        assert (count(wider) - count(create_model("seresnext50", 2388))) / 1e6 == pytest.approx(47, abs=0.5)

    @pytest.mark.usefixtures("pynative")
    def test_other_width_runs(self):
        assert create_model("resnet18", 5, final_width=96)(images(2, 3, 32, 32)).shape == (2, 5)

    @pytest.mark.usefixtures("undrawn")
    @pytest.mark.parametrize("width", [4095, 2050, 4, 1])
    def test_impossible_width(self, width):
        with pytest.raises(ValueError, match=f"final_width={width}"):
            create_model("seresnext50", 5, final_width=width)

    def test_other_stages_keep_their_weights(self):
        """Drawn by name: a wider last stage leaves the first three as they were."""
        one, other = weights(create_model("resnet18", 5)), weights(create_model("resnet18", 5, final_width=256))
        for key in one:
            if key.startswith(("conv1", "layer1", "layer2", "layer3")):
                np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.usefixtures("undrawn")
def test_the_contest_entrys_own_network():
    """Cardinality 7: 11.8 million parameters at 1000 classes (published.md)."""
    assert count(create_model("seresnext50", 1000, cardinality=7)) / 1e6 == pytest.approx(11.8, abs=0.05)


@pytest.mark.parametrize("options", [{"cardinality": 32}, {"base_width": 4}])
def test_groups_need_bottlenecks(options):
    with pytest.raises(ValueError, match="bottleneck"):
        create_model("resnet18", 5, **options)


def test_unknown_depth():
    with pytest.raises(ValueError, match="18, 50, 101"):
        ResNet(5, depth=34)


@pytest.mark.usefixtures("undrawn")
def test_parameters_are_named_as_in_timm():
    names = {parameter.name for parameter in create_model("seresnext50", 5).trainable_params()}
    assert names >= {
        "conv1.weight", "layer1.0.conv1.weight", "layer1.0.se.fc1.bias", "layer2.0.downsample.0.weight",
        "layer4.2.conv3.weight", "fc.bias",
    }  # fmt: skip
