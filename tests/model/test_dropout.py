import numpy as np
import pytest
from mindspore import Model, Tensor, nn

from rp2k_lab.model import create_model
from rp2k_lab.model.dropout import Dropout, DropPath, drop_path, uniform
from rp2k_lab.model.init import initialize
from rp2k_lab.train.checkpoint import load_checkpoint, save_checkpoint
from tests.helpers.losses import CrossEntropy

pytestmark = pytest.mark.usefixtures("graph_mode")


class Uniform(nn.Cell):
    """`uniform` in a cell, so that it runs compiled as in training."""

    def __init__(self, seed, count):
        super().__init__()
        self.seed, self.count = seed, count

    def construct(self, step):
        return uniform(step, self.seed, self.count)


def draw(seed, count, *steps):
    """Return one row of numbers a step."""
    cell = Uniform(seed, count)
    return np.stack([cell(Tensor(np.array([step], np.int32))).asnumpy() for step in steps])


def murmur_finalizer(x):
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x85EBCA6B)
    x = x ^ (x >> np.uint32(13))
    x = x * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


@pytest.fixture(scope="module")
def many():
    """Return three steps of 100,000 numbers by seed."""
    return {seed: draw(seed, 100_000, 1, 2, 3) for seed in (0, 1)}


@pytest.mark.parametrize("seed", [0, 23, 0xD409, 2**32 - 1])
def test_uniform_equals_the_finalizer_of_murmurhash3(seed):
    steps = (1, 2, 123_456_789, 2**31 - 1)
    index, step = np.arange(50, dtype=np.uint32), np.array(steps, np.uint32)[:, None]
    bits = murmur_finalizer(murmur_finalizer(index ^ np.uint32(seed)) + step * np.uint32(0x9E3779B9))
    np.testing.assert_array_equal(draw(seed, 50, *steps), (bits % 2**23).astype(np.float32) / 2**23)


def test_uniform_has_uniform_mean_and_variance(many):
    values = many[0]
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert values.max() < 1
    n = values[0].size
    np.testing.assert_allclose(values.mean(1), 0.5, atol=5 * np.sqrt(1 / 12 / n))
    np.testing.assert_allclose(values.var(1), 1 / 12, atol=5 * np.sqrt(1 / 180 / n))


def test_neighbors_are_not_correlated(many):
    values = many[0][0] - 0.5
    for lag in (1, 2, 3, 4, 8, 31, 32, 64, 1000):
        correlation = (values[lag:] * values[:-lag]).mean() * 12
        assert abs(correlation) < 5 / np.sqrt(len(values) - lag), lag


def test_steps_and_seeds_are_not_correlated(many):
    rows = np.concatenate([many[0], many[1]]) - 0.5
    correlations = rows @ rows.T / rows.shape[1] * 12 - np.eye(6)
    assert np.abs(correlations).max() < 5 / np.sqrt(rows.shape[1])


def layers(net):
    return [cell for _, cell in net.cells_and_names() if isinstance(cell, (Dropout, DropPath))]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "swin_tiny"])
def test_no_two_layers_draw_the_same_numbers(name):
    """Nor in another order: two layers would always drop the same number of samples of a batch."""
    seeds = [cell.seed for cell in layers(create_model(name, 5, drop_rate=0.1, drop_path_rate=0.1))]
    assert len(set(seeds)) == len(seeds) > 12
    other_run = [cell.seed for cell in layers(create_model(name, 5, seed=1, drop_rate=0.1, drop_path_rate=0.1))]
    assert not set(seeds) & set(other_run)
    first, second = (draw(seed, 32, 1) for seed in seeds[:2])
    assert len(np.intersect1d(first, second)) <= 1  # of 2^23 numbers


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("resnet50", np.linspace(0, 0.3, 16)[1:]),
        ("efficientnet_b0", 0.3 * np.arange(1, 16) / 16),
        ("swin_tiny", np.linspace(0, 0.3, 12).repeat(2)[2:]),
        ("convnext_tiny", np.linspace(0, 0.3, 18)[1:]),
        ("vit_small", np.linspace(0, 0.3, 12).repeat(2)[2:]),
    ],
)
def test_drop_path_grows_with_depth(name, rates):
    layer_rates = [cell.rate for cell in layers(create_model(name, 5, drop_path_rate=0.3))]
    np.testing.assert_allclose(layer_rates, rates)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50_bam", "efficientnet_b0", "efficientnet_lite0", "swin_tiny", "convnext_tiny", "vit_small"],
)
def test_networks_without_drop_rates_have_no_step_counter(name):
    assert not any(p.name.endswith("step") for p in create_model(name, 5).get_parameters())
    counting = create_model(name, 5, drop_rate=0.1, drop_path_rate=0.1)
    steps = [p for p in counting.get_parameters() if p.name.endswith(".step")]
    assert len(steps) == len(layers(counting)) > 2
    assert not any(step.requires_grad for step in steps)


def test_drop_path_at_rate_zero_is_the_identity():
    assert isinstance(drop_path(0.0), nn.Identity)
    assert isinstance(drop_path(0.1), DropPath)


@pytest.mark.parametrize(("layer", "shape"), [(Dropout, (50, 400)), (DropPath, (20_000, 2, 3))])
def test_training_drops_the_rate_and_keeps_the_mean(layer, shape):
    x = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    cell = layer(0.3, seed=5).set_train()
    first, second = (cell(Tensor(x)).asnumpy() for _ in range(2))
    for result in (first, second):
        kept = result != 0
        np.testing.assert_allclose(result[kept], x[kept] / 0.7, rtol=1e-6)
        assert kept.mean() == pytest.approx(0.7, abs=5 * np.sqrt(0.7 * 0.3 / 20_000))
        if layer is DropPath:
            assert (kept == kept[:, :1, :1]).all(), "a sample is partly dropped"
    same = ((first != 0) == (second != 0)).reshape(20_000, -1)[:, 0].mean()
    assert same == pytest.approx(0.7**2 + 0.3**2, abs=5 * np.sqrt(0.25 / 20_000)), "the masks are correlated"
    assert cell.step.asnumpy() == 2


@pytest.mark.parametrize(("layer", "shape"), [(Dropout, (2, 40)), (DropPath, (40, 2, 3, 3))])
def test_evaluation_is_the_identity_and_counts_no_steps(layer, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    cell = layer(0.5, seed=5).set_train(False)
    np.testing.assert_array_equal(cell(Tensor(x)).asnumpy(), x)
    assert cell.step.asnumpy() == 0


class Training:
    """A tiny network with both layers and the training step of task=train."""

    def __init__(self):
        net = nn.SequentialCell([nn.Dense(6, 16), DropPath(0.4, 1), Dropout(0.4, 2), nn.Dense(16, 3)])
        initialize(net, seed=0)
        optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9)
        self.step = Model(net, CrossEntropy(), optimizer, amp_level="O0").train_network.set_train()
        rng = np.random.default_rng(0)
        self.batch = Tensor(rng.normal(size=(8, 6)).astype(np.float32)), Tensor(rng.integers(0, 3, 8).astype(np.int32))

    def losses(self, steps):
        return [float(self.step(*self.batch).asnumpy()) for _ in range(steps)]


def test_two_trainings_are_equal_and_a_resumed_one_draws_the_same_masks(tmp_path):
    one, other = Training(), Training()
    start = one.losses(3)
    save_checkpoint(one.step, tmp_path / "a.ckpt", 3)
    end = one.losses(3)
    assert other.losses(6) == start + end
    load_checkpoint(other.step, tmp_path / "a.ckpt")
    assert other.losses(3) == end
    load_checkpoint(other.step, tmp_path / "a.ckpt")
    for parameter in other.step.get_parameters():
        if parameter.name.endswith(".step"):
            parameter.set_data(Tensor(np.zeros(1, np.int32)))
    assert other.losses(3) != end, "the losses do not depend on the masks"
