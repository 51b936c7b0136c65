import numpy as np
import pytest
from mindspore import Model, Parameter, Tensor, nn, ops
from mindspore.amp import FixedLossScaleManager
from pydantic import ValidationError

from rp2k_lab.config.choices import defaults_of
from rp2k_lab.core.errors import RequestError
from rp2k_lab.train.checkpoint import load_checkpoint, save_checkpoint
from rp2k_lab.train.optimizer import Optimizer
from rp2k_lab.train.optimizer.adamw import AdamW
from rp2k_lab.train.optimizer.lamb import Lamb
from rp2k_lab.train.optimizer.lion import Lion
from rp2k_lab.train.optimizer.sgd import Sgd
from rp2k_lab.train.schedule.cosine import Cosine
from rp2k_lab.train.updates import (
    Plan,
    Rule,
    UpdateCell,
    build_optimizer,
    clip_by_global_norm,
    is_decayed,
    layers_of,
    moving_average,
    parameter_groups,
    rate_factors,
    scaled_rate,
)
from tests.helpers.numpy_optimizers import Reference, clipped
from tests.helpers.zoo import SLOW, no_weights

CHOICES = {"sgd": Sgd, "adamw": AdamW, "lamb": Lamb, "lion": Lion}


def options(name: str = "sgd", **changes) -> Optimizer:
    """Return a choice with the defaults of conf/optimizer, and for SGD a high rate and decay."""
    tests = {"lr": 0.1, "weight_decay": 0.1} if name == "sgd" else {}
    return CHOICES[name].model_validate(defaults_of("optimizer", name) | tests | changes)


def cosine(warmup_epochs: float = 0.0) -> Cosine:
    return Cosine(name="cosine", lr_end=0.001, warmup_epochs=warmup_epochs)


class Tiny(nn.Cell):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, has_bias=True, weight_init="ones", bias_init="ones")
        self.norm = nn.BatchNorm2d(2, gamma_init="ones", beta_init="ones")
        self.fc = nn.Dense(2, 3, weight_init="ones", bias_init="ones")


DECAYED = {"conv.weight", "fc.weight"}


@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
@pytest.mark.usefixtures("pynative")
def test_decay_acts_on_weights_but_not_on_norms_and_biases(loss_scale):
    """Two steps of SGD with momentum against NumPy; gradients include the loss scale, as in training."""
    net, settings = Tiny(), options()
    optimizer, rates = build_optimizer(settings, cosine(), net, Plan(2, 2, 4, loss_scale))
    rng = np.random.default_rng(0)
    expected = {p.name: p.asnumpy().copy() for p in net.trainable_params()}
    velocity = dict.fromkeys(expected, 0.0)
    assert {p.name for p in optimizer.parameters} == set(expected)
    for step in range(2):
        gradients = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in expected.items()}
        optimizer(tuple(Tensor(gradients[p.name] * np.float32(loss_scale)) for p in optimizer.parameters))
        for name, value in expected.items():
            decay = settings.weight_decay if name in DECAYED else 0.0
            velocity[name] = settings.momentum * velocity[name] + gradients[name] + decay * value
            expected[name] = value - rates[step] * velocity[name]
    for parameter in net.trainable_params():
        np.testing.assert_allclose(parameter.asnumpy(), expected[parameter.name], rtol=1e-5, err_msg=parameter.name)


def rates_of(epochs, steps_per_epoch, batch_size=4, warmup_epochs=0.0, **changes):
    plan = Plan(epochs, steps_per_epoch, batch_size)
    return build_optimizer(options(**changes), cosine(warmup_epochs), Tiny(), plan)[1]


def test_rates_cover_the_run_and_warmup_counts_epochs():
    np.testing.assert_array_equal(rates_of(3, 8, warmup_epochs=0.5), cosine().rates(24, 0.1, 4))


@pytest.mark.parametrize(("images", "reference", "rate"), [(512, 256, 0.2), (64, 256, 0.025), (64, None, 0.1)])
def test_the_rate_scales_with_the_images_of_an_update(images, reference, rate):
    assert scaled_rate(0.1, images, reference) == pytest.approx(rate)


def test_only_the_peak_is_scaled_and_accumulated_batches_count():
    scaled = rates_of(2, 6, batch_size=32, lr_batch_size=16, accumulate_steps=3, warmup_epochs=0.5)
    np.testing.assert_array_equal(scaled[::3], cosine().rates(4, 0.1 * 6, 1))
    assert scaled[-1] == np.float32(0.001)


def test_the_steps_of_an_update_share_a_rate_across_epochs():
    """Two epochs of 7 steps: three updates of 4 steps, the second from both epochs, and 2 steps without update."""
    rates = rates_of(2, 7, accumulate_steps=4)
    update = cosine().rates(3, 0.1, 0)
    np.testing.assert_array_equal(rates, np.repeat([*update, update[-1]], [4, 4, 4, 2]))


def test_a_run_too_short_for_one_update_is_refused():
    assert len(rates_of(2, 3, accumulate_steps=6)) == 6
    with pytest.raises(RequestError, match=r"^optimizer\.accumulate_steps=7: the run has 6 steps.*\nuse 6 or less"):
        rates_of(2, 3, accumulate_steps=7)


@pytest.mark.parametrize("max_norm", [0.5, 6.0, 100.0])
@pytest.mark.usefixtures("pynative")
def test_clipping_equals_numpy(max_norm):
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 4, 2), (5,), ())]
    result = clip_by_global_norm(tuple(map(Tensor, gradients)), max_norm)
    for one, expected in zip(result, clipped(gradients, max_norm), strict=True):
        np.testing.assert_allclose(one.asnumpy(), expected, rtol=1e-5)
    if max_norm == 100.0:
        np.testing.assert_array_equal(result[0].asnumpy(), gradients[0])
    else:
        assert np.sqrt(sum((one.asnumpy() ** 2).sum() for one in result)) <= max_norm * (1 + 1e-5)


@pytest.mark.usefixtures("pynative")
def test_gradients_of_zero_are_clipped_to_zero():
    (result,) = clip_by_global_norm((Tensor(np.zeros(3, np.float32)),), 1.0)
    np.testing.assert_array_equal(result.asnumpy(), np.zeros(3))


@pytest.mark.usefixtures("pynative")
def test_moving_average_equals_numpy_and_copies_counters():
    average, value = np.float32([1, 2, 3]), np.float32([3, 2, -1])
    result = moving_average(Tensor(average), Tensor(value), 0.75)
    np.testing.assert_allclose(result.asnumpy(), 0.75 * average + 0.25 * value, rtol=1e-6)
    assert moving_average(Tensor(np.int32([1])), Tensor(np.int32([7])), 0.75).asnumpy() == [7]


@pytest.mark.parametrize("accumulate_steps", [1, 3])
@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
@pytest.mark.usefixtures("graph_mode")
def test_all_options_together_equal_numpy(accumulate_steps, loss_scale):
    """In seven steps; with three an update, the last step has no update.  Only some gradients exceed the norm."""
    settings = options(accumulate_steps=accumulate_steps, clip_norm=4.0, ema_decay=0.75)
    average, net = Tiny(), Tiny()
    net.update_parameters_name("trained.")
    cell, rates = build_optimizer(settings, cosine(), net, Plan(1, 7, 4, loss_scale), average)
    values, decayed = {p.name: p.asnumpy().copy() for p in cell.parameters}, {f"trained.{name}" for name in DECAYED}
    expected = Reference(values, decayed, settings)
    rng = np.random.default_rng(0)
    for step in range(7):
        size = 0.2 if step < 3 else 3.0
        gradients = {n: (size * rng.normal(size=v.shape)).astype(np.float32) for n, v in expected.values.items()}
        cell(tuple(Tensor(gradients[name] * np.float32(loss_scale)) for name in values))
        expected.step(gradients, rates[step])
    assert expected.updates == 7 // accumulate_steps
    averages = {p.name: p.asnumpy() for p in average.get_parameters()}
    for parameter in cell.parameters:
        name = parameter.name
        np.testing.assert_allclose(parameter.asnumpy(), expected.values[name], rtol=1e-5, atol=1e-6, err_msg=name)
        value = averages[name.removeprefix("trained.")]
        np.testing.assert_allclose(value, expected.averages[name], rtol=1e-5, atol=1e-6, err_msg=name)


SOAK = pytest.mark.soak
RULES = [
    ("adamw", {}, 1.0),
    ("adamw", {}, 1024.0),
    ("lamb", {"clip_norm": None}, 1024.0),
    ("lion", {}, 1024.0),
    pytest.param("lamb", {"clip_norm": None}, 1.0, marks=SOAK),
    pytest.param("lion", {}, 1.0, marks=SOAK),
    # Betas of 0, whose average has no bias, and averages of a few gradients.
    pytest.param("adamw", {"betas": [0.0, 0.5], "eps": 0.01}, 1000.0, marks=SOAK),
    pytest.param("lamb", {"betas": [0.0, 0.9], "max_trust_ratio": 0.5}, 1000.0, marks=SOAK),
    pytest.param("lion", {"betas": [0.0, 0.5]}, 1000.0, marks=SOAK),
]


@pytest.mark.parametrize(("name", "changes", "loss_scale"), RULES)
@pytest.mark.usefixtures("graph_mode")
def test_rules_equal_the_reference(name, changes, loss_scale):
    """Compare 20 updates with the reference in float64, to 1e-6; gradients of 1e-4 to 10, one weight with zeros."""
    settings = options(name, **changes)
    rng = np.random.default_rng(0)
    shapes = {"conv.weight": (4, 3, 2, 2), "fc.weight": (3, 4), "head.weight": (2, 2), "fc.bias": (4,)}
    values = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    values["head.weight"][:] = 0
    net = nn.Cell()
    for name, value in values.items():
        net.insert_param_to_cell(name.replace(".", "_"), Parameter(Tensor(value), name=name))
    cell, rates = build_optimizer(settings, cosine(), net, Plan(4, 5, 8, loss_scale))
    expected = Reference(values, shapes.keys() - {"fc.bias"}, settings)
    for step in range(20):
        size = {name: 10.0 ** rng.uniform(-4, 1) for name in shapes}
        gradients = {n: (size[n] * rng.normal(size=shape)).astype(np.float32) for n, shape in shapes.items()}
        cell(tuple(Tensor(gradients[p.name] * np.float32(loss_scale)) for p in cell.parameters))
        expected.step(gradients, rates[step])
    for parameter in cell.parameters:
        name = parameter.name
        np.testing.assert_allclose(parameter.asnumpy(), expected.values[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("slots", [(), ("a", "b", "c")])
@pytest.mark.usefixtures("pynative")
def test_a_rule_may_have_no_state_or_up_to_three_slots(slots):
    """Each slot counts the updates, and is added to the gradient."""

    def update(values, gradient, parameter, *state):
        rate, _ = values
        for slot in state:
            gradient = gradient + slot
            ops.assign_add(slot, ops.ones_like(slot))
        return ops.assign_sub(parameter, rate * gradient)

    net = Tiny()
    before = net.fc.weight.asnumpy().copy()
    groups, rates = parameter_groups(options(), net.trainable_params()), np.float32([1, 1])
    cell = UpdateCell(Rule(update, slots), groups, rates, options())
    for _ in range(2):
        cell(tuple(ops.ones_like(parameter) for parameter in cell.parameters))
    np.testing.assert_allclose(net.fc.weight.asnumpy(), before - 2 - len(slots))
    state = [p for p in cell.get_parameters() if p.name.startswith(("a.", "b.", "c."))]
    assert len(state) == len(slots) * len(cell.parameters)
    assert all((p.asnumpy() == 2).all() for p in state)


class Plain(nn.Cell):
    """A network without batch norm."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(1)
        weights = [Tensor(rng.normal(0, 0.5, size).astype(np.float32)) for size in ((8, 5), (3, 8))]
        self.layers = nn.SequentialCell(
            nn.Dense(5, 8, weights[0], "zeros"), nn.ReLU(), nn.Dense(8, 3, weights[1], "zeros")
        )

    def construct(self, x):
        return self.layers(x)


def training(settings: Optimizer, steps: int, batch_size: int, precision: str = "O0", loss_scale: float = 1024.0):
    """Return (compiled step, trained network, its average), built as in a run."""
    average, net = Plain(), Plain()
    net.update_parameters_name("trained.")
    cell, _ = build_optimizer(settings, cosine(), net, Plan(1, steps, batch_size, loss_scale), average)
    manager = FixedLossScaleManager(loss_scale, drop_overflow_update=False)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    model = Model(net, loss, cell, amp_level=precision, loss_scale_manager=manager)
    return model.train_network.set_train(), net, average


def values(net) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in net.get_parameters()}


@pytest.fixture(scope="module")
def samples():
    """Return (inputs, labels) of two batches of 12."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(24, 5)).astype(np.float32), rng.integers(0, 3, 24).astype(np.int32)


def run(step, samples, batch_size, first=0, last=None):
    for start in range(first * batch_size, (last or len(samples[0]) // batch_size) * batch_size, batch_size):
        step(*(Tensor(part[start : start + batch_size]) for part in samples))


@pytest.mark.usefixtures("graph_mode")
def test_accumulated_batches_equal_the_update_of_a_large_batch(samples):
    settings = {"lr": 0.5, "clip_norm": 0.4, "ema_decay": 0.5}
    large, net, average = training(options(**settings), 2, 12)
    before = values(net)
    run(large, samples, 12)
    small, small_net, small_average = training(options(**settings, accumulate_steps=3), 6, 4)
    run(small, samples, 4)
    for one, other in ((net, small_net), (average, small_average)):
        for name, value in values(one).items():
            np.testing.assert_allclose(values(other)[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert max(np.abs(value - before[name]).max() for name, value in values(net).items()) > 0.05


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("sgd", "O0"),
        ("adamw", "O2"),
        *[pytest.param(name, "O0", marks=SOAK) for name in ("adamw", "lamb", "lion")],
        *[pytest.param(name, "O2", marks=SOAK) for name in ("sgd", "lamb", "lion")],
    ],
)
@pytest.mark.usefixtures("graph_mode")
def test_training_resumes_in_the_middle_of_an_update(samples, tmp_path, name, precision):
    """Bit for bit from a checkpoint of the training step, which has averages, sums, their count and all state."""
    settings = options(name, accumulate_steps=3, clip_norm=0.4, ema_decay=0.5, layer_decay=None, backbone_factor=0.5)
    whole, net, _ = training(settings, 12, 4, precision)
    before = values(net)
    run(whole, samples, 4, last=5)
    save_checkpoint(whole, tmp_path / "last.ckpt", 5)
    run(whole, samples, 4, first=2)
    resumed, *_ = training(settings, 12, 4, precision)
    load_checkpoint(resumed, tmp_path / "last.ckpt")
    run(resumed, samples, 4, first=2)
    restored = values(resumed)
    for name, value in values(whole).items():
        np.testing.assert_array_equal(restored[name], value, err_msg=name)
        assert np.isfinite(value).all()
    assert {"accumulated_steps", "trained.layers.0.weight", "layers.0.weight"} <= set(restored)
    assert all((restored[name] != value).any() for name, value in before.items())


def test_checkpoints_have_the_names_of_older_ones():
    """Those of nn.Momentum, which runs of commit ab2c967 have."""
    cell, _ = build_optimizer(options(accumulate_steps=2), cosine(), Tiny(), Plan(1, 4, 4))
    names = {"conv.weight", "conv.bias", "norm.gamma", "norm.beta", "fc.weight", "fc.bias"}
    own = {"global_step", "learning_rate", "momentum", "accumulated_steps"}
    expected = names | own | {f"{slot}.{name}" for slot in ("moments", "accumulated") for name in names}
    assert {p.name for p in cell.get_parameters()} == expected


@pytest.mark.parametrize("name", ["pos_embed", "cls_token", "layers.0.blocks.0.attn.relative_position_bias_table"])
def test_tables_of_positions_are_not_decayed(name):
    assert not is_decayed(name, 3)
    assert is_decayed("blocks.0.attn.qkv.weight", 2)
    assert not is_decayed("blocks.0.ls1.gamma", 4)
    assert not is_decayed("fc.bias", 1)


def test_groups_are_the_decayed_parameters_and_the_others():
    net = Tiny()
    groups = parameter_groups(options(weight_decay=0.3), net.trainable_params())
    named = [([p.name for p in group.parameters], group.decay, group.factor) for group in groups]
    assert named == [
        (["conv.weight", "fc.weight"], 0.3, 1.0),
        (["conv.bias", "norm.gamma", "norm.beta", "fc.bias"], 0.0, 1.0),
    ]


def test_a_classifier_without_bias_is_one_group():
    (group,) = parameter_groups(options(), [Parameter(Tensor(np.zeros((2, 3), np.float32)), name="fc.weight")])
    assert group.decay == 0.1


LAYERS = {  # family: the names of each layer, from the stem to the head
    "resnet": [
        ["conv1.weight", "bn1.gamma"],
        ["layer1.0.conv1.weight", "layer1.0.downsample.0.weight"],
        ["layer1.1.bn2.beta", "bam1.channel_fc1.weight"],
        ["layer2.0.se.fc1.weight"],
        ["layer4.10.conv1.weight"],
        ["widen.conv.weight", "widen.bn.gamma", "fc.weight", "fc.bias"],
    ],
    "efficientnet": [
        ["conv_stem.weight", "bn1.gamma"],
        ["blocks.0.0.conv_dw.weight"],
        ["blocks.1.0.conv_pw.weight", "blocks.1.0.se.fc1.bias"],
        ["blocks.1.1.bn3.gamma"],
        ["blocks.6.0.conv_pwl.weight", "conv_head.weight", "bn2.gamma"],
        ["fc.weight"],
    ],
    "inception_resnet_v2": [
        ["conv2d_1a.conv.weight", "conv2d_2b.bn.gamma"],
        ["conv2d_3b.conv.weight", "conv2d_4a.bn.beta"],
        ["mixed_5b.branch0.conv.weight"],
        ["repeat.0.branch0.conv.weight"],
        ["repeat.9.conv2d.bias"],
        ["mixed_6a.branch0.conv.weight"],
        ["repeat_1.0.branch1.0.conv.weight"],
        ["mixed_7a.branch0.0.conv.weight"],
        ["repeat_2.8.conv2d.weight"],
        ["block8.conv2d.weight", "conv2d_7b.conv.weight", "conv2d_7b.bn.gamma"],
        ["fc.weight"],
    ],
    "swin": [
        ["patch_embed.proj.weight", "patch_embed.norm.gamma"],
        ["layers.0.blocks.0.norm1.gamma", "layers.0.blocks.0.attn.relative_position_bias_table"],
        ["layers.0.blocks.1.mlp.fc1.weight"],
        ["layers.1.downsample.reduction.weight", "layers.1.blocks.0.attn.qkv.weight"],
        ["layers.2.blocks.10.attn.qkv.weight", "norm.gamma", "norm.beta"],
        ["fc.weight"],
    ],
    "convnext": [
        ["stem.0.weight", "stem.1.gamma"],
        ["stages.0.blocks.0.conv_dw.weight", "stages.0.blocks.0.norm.gamma"],
        ["stages.0.blocks.1.layer_scale.scale"],
        ["stages.1.downsample.1.weight", "stages.1.blocks.0.mlp.fc1.weight"],
        ["stages.3.blocks.2.mlp.fc2.bias"],
        ["norm.gamma", "fc.weight"],
    ],
    "vit": [
        ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"],
        ["blocks.0.norm1.gamma", "blocks.0.ls1.scale"],
        ["blocks.2.attn.qkv.weight"],
        ["blocks.11.mlp.fc2.weight", "norm.gamma"],
        ["fc.weight", "fc.bias"],
    ],
}


@pytest.mark.parametrize("family", LAYERS)
def test_layers_are_stem_blocks_and_head(family):
    expected = {name: number for number, names in enumerate(LAYERS[family]) for name in names}
    assert layers_of(reversed(list(expected))) == expected


@pytest.mark.soak
@pytest.mark.parametrize("name", SLOW)
def test_layers_of_every_model_are_known(name):
    from rp2k_lab.model import create_model

    with no_weights():
        net = create_model(name, 10, head_width=16)
    layers = layers_of([p.name for p in net.trainable_params()])
    assert set(layers.values()) == set(range(max(layers.values()) + 1))
    head = {name for name, number in layers.items() if number == max(layers.values())}
    assert {"fc.weight", "fc.bias", "widen.conv.weight", "widen.bn.gamma", "widen.bn.beta"} <= head
    assert max(layers.values()) >= 9  # the blocks of ResNet-18, stem and head


def test_rates_fall_towards_the_stem():
    names = [names[0] for names in LAYERS["swin"]]
    assert rate_factors(options(), names) == [1.0] * 6
    assert rate_factors(options(layer_decay=0.5), names) == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    assert rate_factors(options(backbone_factor=0.1), names) == [0.1] * 5 + [1.0]
    both = rate_factors(options(layer_decay=0.5, backbone_factor=0.5), names)
    assert both == [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1]


def test_layer_decay_of_an_unknown_network_is_refused():
    with pytest.raises(RequestError, match=r"^optimizer.layer_decay=0.5: the layer of trunk.0.weight is unknown\nuse "):
        rate_factors(options(layer_decay=0.5), ["fc.weight", "trunk.0.weight"])


@pytest.mark.usefixtures("pynative")
def test_parameters_move_at_the_rate_of_their_layer():
    net = nn.Cell()
    for i, name in enumerate(("conv1.weight", "layer1.0.conv1.weight", "fc.weight")):
        net.insert_param_to_cell(f"p{i}", Parameter(Tensor(np.zeros((2, 2), np.float32)), name=f"trained.{name}"))
    settings = options(layer_decay=0.5, backbone_factor=0.8, weight_decay=0.0)
    cell, rates = build_optimizer(settings, cosine(), net, Plan(1, 3, 4))
    cell(tuple(Tensor(np.ones((2, 2), np.float32)) for _ in cell.parameters))
    moved = {p.name: float(-p.asnumpy()[0, 0] / rates[0]) for p in cell.parameters}
    expected = {"trained.conv1.weight": 0.2, "trained.layer1.0.conv1.weight": 0.4, "trained.fc.weight": 1.0}
    assert moved == pytest.approx(expected)
    np.testing.assert_array_equal(cell.learning_rate.learning_rate.asnumpy(), rates)


WRONG = [
    ("sgd", {"momentum": 1.0}, "less than 1"),
    ("sgd", {"layer_decay": 0.0}, "greater than 0"),
    ("sgd", {"layer_decay": 1.5}, "less than or equal to 1"),
    ("sgd", {"backbone_factor": 0.0}, "greater than 0"),
    ("sgd", {"betas": [0.9, 0.99]}, "Extra inputs"),
    ("adamw", {"momentum": 0.9}, "Extra inputs"),
    ("adamw", {"betas": [0.9, 1.0]}, "less than 1"),
    ("adamw", {"betas": [-0.1, 0.9]}, "greater than or equal to 0"),
    ("adamw", {"betas": [0.9]}, "required"),
    ("adamw", {"eps": 0.0}, "greater than 0"),
    ("lamb", {"weight_decay": 0.0}, "greater than 0"),
    ("lamb", {"max_trust_ratio": 0.0}, "greater than 0"),
    ("lion", {"betas": [0.9, 0.99, 0.999]}, "at most 2"),
    ("lion", {"eps": 1e-8}, "Extra inputs"),
]


@pytest.mark.parametrize(("name", "changes", "reason"), WRONG)
def test_wrong_values_are_refused(name, changes, reason):
    with pytest.raises(ValidationError, match=reason):
        options(name, **changes)
