"""The native operators against formulas in float64, and models with them against models with plain operators."""

import math

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from rp2k_lab import native
from rp2k_lab.model import attention, custom_operators, layers, resnet, swin, vit
from tests.helpers import numpy_layers
from tests.native.onednn import worst_error

pytestmark = [
    pytest.mark.usefixtures("graph_mode"),
    pytest.mark.skipif(native.state().version is None, reason="the native library is off"),
]
DRAW = np.random.default_rng(0)


class Call(nn.Cell):
    """A function as a cell; the constants follow the inputs."""

    def __init__(self, function, constants=()):
        super().__init__()
        self.function, self.constants = function, constants

    def construct(self, *inputs):
        return self.function(*inputs, *self.constants)


def value_and_gradients(cell, inputs, slopes, weights=None):
    """Return [value, gradient of each input and of the weights], NumPy arrays."""
    inputs = [Tensor(each.astype(np.float32)) for each in inputs]
    gradient = ops.GradOperation(get_all=True, get_by_list=weights is not None, sens_param=True)
    gradients = (gradient(cell, weights) if weights else gradient(cell))(*inputs, Tensor(slopes.astype(np.float32)))
    groups = gradients if weights else (gradients,)
    return [each.asnumpy() for each in (cell(*inputs), *(one for group in groups for one in group))]


def numeric_gradients(function, inputs, slopes, step=1e-5):
    """Return the gradient of (slopes · function).sum() for each input, by central differences."""

    def total(which, place, change):
        moved = [each.copy() for each in inputs]
        moved[which][place] += change
        return (slopes * function(*moved)).sum()

    gradients = [np.zeros_like(each) for each in inputs]
    for which, each in enumerate(inputs):
        for place in np.ndindex(each.shape):
            gradients[which][place] = (total(which, place, step) - total(which, place, -step)) / (2 * step)
    return gradients


def check(function, formula, inputs, constants=()):
    """Compare an operator's value and gradients with a formula's."""
    inputs = [each.astype(np.float32).astype(np.float64) for each in inputs]
    value = formula(*inputs)
    slopes = DRAW.normal(size=value.shape).astype(np.float32).astype(np.float64)
    results = value_and_gradients(Call(function, constants), inputs, slopes)
    for result, expected in zip(results, [value, *numeric_gradients(formula, inputs, slopes)], strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6 * max(1, np.abs(expected).max()))


def gelu(x, bias=0.0):
    return (x + bias) * 0.5 * (1 + np.vectorize(math.erf)((x + bias) / math.sqrt(2)))


def softmax_attention(qkv, bias, mask):
    groups, tokens, channels = qkv.shape
    heads = len(bias)
    query, key, value = qkv.reshape(groups, tokens, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    scores = query @ key.swapaxes(2, 3) / math.sqrt(query.shape[-1]) + bias
    scores = scores + mask[np.arange(groups) % len(mask)][:, None]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    attended = weights / weights.sum(-1, keepdims=True) @ value
    return attended.swapaxes(1, 2).reshape(groups, tokens, channels // 3)


def test_add_bias():
    check(custom_operators.add_bias, np.add, [DRAW.normal(size=(3, 5, 7)), DRAW.normal(size=7)])


def test_gelu():
    check(custom_operators.bias_gelu, gelu, [3 * DRAW.normal(size=(9, 21)), DRAW.normal(size=21)])


def test_gelu_and_silu_everywhere():
    x = np.concatenate([np.linspace(-15, 15, 20001), [-1e4, -100, 0, 100, 1e4]]).astype(np.float32)
    zero = np.zeros(len(x))
    for function, formula, constants in (
        (custom_operators.bias_gelu, gelu, (Tensor(zero.astype(np.float32)),)),
        (custom_operators.silu, lambda x: x / (1 + np.exp(np.clip(-x, None, 700))), ()),
    ):
        value, slope = value_and_gradients(Call(function, constants), [x[None]], np.ones((1, len(x))))[:2]
        wide = x.astype(np.float64)
        np.testing.assert_allclose(value[0], formula(wide), rtol=3e-7, atol=3e-7)
        near = np.abs(wide) < 200  # elsewhere the difference cancels
        expected = (formula(wide[near] + 1e-5) - formula(wide[near] - 1e-5)) / 2e-5
        np.testing.assert_allclose(slope[0][near], expected, rtol=1e-6, atol=1e-6)
    assert np.isnan(Call(custom_operators.silu)(Tensor(np.array([math.nan], np.float32))).asnumpy()[0])


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 33)])
def test_layer_norm(shape):
    def formula(x, gamma, beta):
        centered = x - x.mean(-1, keepdims=True)
        return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-3) * gamma + beta

    inputs = [2 + DRAW.normal(size=shape), DRAW.normal(size=shape[-1]), DRAW.normal(size=shape[-1])]
    check(custom_operators.layer_norm, formula, inputs, (Tensor(1e-3, mindspore.float32),))


@pytest.mark.parametrize(
    ("groups", "tokens", "heads", "width", "masks"),
    [(4, 5, 2, 3, 2), (2, 17, 1, 4, 0), (3, 1, 2, 8, 0), (3, 4, 3, 5, 3)],
)
def test_attention(groups, tokens, heads, width, masks):
    qkv = DRAW.normal(size=(groups, tokens, 3 * heads * width))
    bias = DRAW.normal(size=(heads, tokens, tokens))
    mask = np.where(DRAW.random((masks, tokens, tokens)) < 0.3, -100.0, 0.0) if masks else np.zeros((1, 1, 1))
    mask[:, range(mask.shape[1]), range(mask.shape[1])] = 0
    check(
        custom_operators.attention,
        lambda qkv, bias: softmax_attention(qkv, bias, mask),
        [qkv, bias],
        (Tensor(mask.astype(np.float32)),),
    )


def test_attention_without_bias():
    constants = Tensor(np.zeros((2, 1, 1), np.float32)), Tensor(np.zeros((1, 1, 1), np.float32))
    none = np.zeros((2, 1, 1)), np.zeros((1, 1, 1))
    check(
        custom_operators.attention, lambda qkv: softmax_attention(qkv, *none), [DRAW.normal(size=(3, 6, 18))], constants
    )


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 1, 1)])
def test_maps(shape):
    x, gate = DRAW.normal(size=shape), DRAW.normal(size=shape[:2])
    check(custom_operators.map_means, lambda x: x.mean((2, 3)), [x])
    check(custom_operators.scale_maps, lambda x, gate: x * gate[:, :, None, None], [x, gate])


@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (1, 2, 7, 4), (2, 1, 1, 1)])
def test_max_pool(shape):
    def formula(x):
        wide = np.pad(x, ((0, 0), (0, 0), (1, 2), (1, 2)))
        rows, columns = (2 * np.arange((side + 1) // 2) for side in shape[2:])
        places = [wide[:, :, rows + down][:, :, :, columns + right] for down in range(3) for right in range(3)]
        return np.max(places, 0)

    check(custom_operators.max_pool, formula, [0.1 + DRAW.permutation(math.prod(shape)).reshape(shape)])


class NormRelu(nn.Cell):
    def __init__(self, channels, has_residual, ceiling):
        super().__init__()
        self.norm, self.has_residual, self.ceiling = layers.batch_norm(channels), has_residual, ceiling
        self.set_train()

    def construct(self, x, residual):
        return layers.norm_relu(self.norm, x, residual if self.has_residual else None, self.ceiling)


# Maps of a pixel, of several strips (512 floats each), and several maps in one strip.
@pytest.mark.parametrize("shape", [(9, 3, 1, 1), (4, 5, 3, 2), (2, 2, 19, 30)])
@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("ceiling", [math.inf, 6.0])
def test_norm_and_relu(shape, has_residual, ceiling):
    cell = numpy_layers.draw_parameters(NormRelu(shape[1], has_residual, ceiling)).set_train()
    norm = cell.norm
    x, residual = (3 * DRAW.normal(size=shape).astype(np.float32).astype(np.float64) for _ in range(2))
    gamma, beta = (each.asnumpy().astype(np.float64) for each in (norm.gamma, norm.beta))
    running = [each.asnumpy().astype(np.float64) for each in (norm.moving_mean, norm.moving_variance)]
    slopes = DRAW.normal(size=shape).astype(np.float32).astype(np.float64)

    inputs = [Tensor(each.astype(np.float32)) for each in (x, residual)]
    gradient = ops.GradOperation(get_all=True, get_by_list=True, sens_param=True)
    weights = mindspore.ParameterTuple([norm.gamma, norm.beta])
    of_inputs, of_weights = gradient(cell, weights)(*inputs, Tensor(slopes.astype(np.float32)))

    inverse = 1 / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
    normal = (x - x.mean((0, 2, 3), keepdims=True)) * inverse
    before = normal * gamma[:, None, None] + beta[:, None, None] + has_residual * residual
    passed = np.where((before > 0) & (before < ceiling), slopes, 0)
    dgamma, dbeta = (passed * normal).sum((0, 2, 3)), passed.sum((0, 2, 3))
    count = x.size / shape[1]
    centered = passed - (dbeta[:, None, None] + normal * dgamma[:, None, None]) / count
    expected = [gamma[:, None, None] * inverse * centered, has_residual * passed, dgamma, dbeta]
    for result, value in zip([*of_inputs, *of_weights], expected, strict=True):
        assert worst_error(result.asnumpy(), value) < 1e-5
    for result, old, new in zip(
        (norm.moving_mean, norm.moving_variance), running, (x.mean((0, 2, 3)), x.var((0, 2, 3), ddof=1)), strict=True
    ):
        np.testing.assert_allclose(result.asnumpy(), 0.9 * old + 0.1 * new, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cell(*inputs).asnumpy(), np.clip(before, 0, ceiling), atol=2e-5)


def test_running_statistics_move_as_those_of_the_norm_alone():
    cells = [NormRelu(4, False, math.inf), layers.batch_norm(4).set_train()]
    for _ in range(3):
        x = Tensor(DRAW.normal(1, 2, (3, 4, 2, 5)).astype(np.float32))
        cells[0](x, x), cells[1](x)
    for one, other in zip(cells[0].get_parameters(), cells[1].get_parameters(), strict=True):
        np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), rtol=1e-6)


def test_norm_and_relu_keep_nan():
    x = np.ones((2, 2, 2, 2), np.float32)
    x[0, 1, 0, 0] = math.nan
    for has_residual in (False, True):
        y = NormRelu(2, has_residual, math.inf)(Tensor(x), Tensor(np.zeros_like(x))).asnumpy()
        assert np.isnan(y[:, 1]).all()
        assert not np.isnan(y[:, 0]).any()
    assert np.isnan(Call(custom_operators.add_relu)(Tensor(x), Tensor(x)).asnumpy()).sum() == 1


def test_add_relu():
    check(custom_operators.add_relu, lambda a, b: np.maximum(a + b, 0), [DRAW.normal(size=(2, 3, 5)) for _ in range(2)])


def test_equal_maxima_share_no_slope():
    x = np.zeros((1, 1, 2, 2), np.float32)
    slope = value_and_gradients(Call(custom_operators.max_pool), [x], np.full((1, 1, 1, 1), 3.0))[1]
    np.testing.assert_array_equal(slope, [[[[3, 0], [0, 0]]]])


def test_rows_in_another_order():
    order = np.array([3, -1, 0, 2, -1], np.int32)
    inverse = np.array([2, -1, 3, 0], np.int32)

    def formula(x):
        return np.where(order[:, None] < 0, 0, x[:, order])

    constants = Tensor(order), Tensor(inverse)
    check(custom_operators.take_rows, formula, [DRAW.normal(size=(2, 4, 3))], constants)


class Momentum(nn.Cell):
    def __init__(self, weight):
        super().__init__()
        self.weight = Parameter(Tensor(weight))
        self.velocity = Parameter(Tensor(np.zeros_like(weight)))

    def construct(self, gradient):
        before = self.weight.sum()
        scalars = [Tensor(value, mindspore.float32) for value in (0.1, 0.9, 0.01)]
        done = custom_operators.update_by_momentum(self.weight, self.velocity, gradient, *scalars)
        return ops.depend(before, done), ops.depend(self.weight, done).sum()


def test_momentum_changes_parameters_in_place():
    weight = DRAW.normal(size=(130, 257)).astype(np.float32)
    cell, wide, velocity = Momentum(weight), weight.astype(np.float64), 0.0
    for _ in range(3):
        gradient = DRAW.normal(size=weight.shape).astype(np.float32)
        before, after = cell(Tensor(gradient))
        np.testing.assert_allclose(before.asnumpy(), wide.sum(), atol=1e-2)
        velocity = 0.9 * velocity + gradient + 0.01 * wide
        wide = wide - 0.1 * velocity
        np.testing.assert_allclose(after.asnumpy(), wide.sum(), atol=1e-2)
    np.testing.assert_allclose(cell.weight.asnumpy(), wide, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(cell.velocity.asnumpy(), velocity, rtol=1e-6, atol=1e-6)


def residual(kind, *options):
    """Return a block of a ResNet that halves the map."""
    downsample = nn.SequentialCell([layers.conv(8, 24, 1, 2), layers.batch_norm(24)])
    planes = 24 // kind.expansion
    return kind(8, planes, 2, *options, downsample, nn.Identity())


def block(shifted):
    return swin.Block(24, 2, shifted, (nn.Identity(), nn.Identity()))


CELLS = {
    "swin": (lambda: block(False), (3, 16, 9, 24)),
    "swin, shifted": (lambda: block(True), (3, 16, 9, 24)),
    "swin, many parts": (lambda: block(True), (5, 28, 28, 24)),
    "swin, one window": (lambda: block(True), (2, 4, 5, 24)),
    "merging": (lambda: swin.PatchMerging(8), (2, 5, 6, 8)),
    "vit": (lambda: vit.Attention(24, 3), (9, 17, 24)),
    "mlp": (lambda: layers.Mlp(40, 160), (500, 40)),
    "basic block": (lambda: residual(resnet.BasicBlock, None), (4, 8, 9, 7)),
    "bottleneck": (lambda: residual(resnet.Bottleneck, 6, 2, None), (4, 8, 9, 7)),
    "bottleneck, attention": (lambda: residual(resnet.Bottleneck, 6, 1, attention.SqueezeExcitation), (4, 8, 9, 7)),
    "squeeze and excitation": (lambda: attention.SqueezeExcitation(40, activation=layers.SiLU), (16, 40, 9, 7)),
}


# A Swin block with plain operators compiles for seconds; test_swin.py compares it with loops.
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.soak] * ("swin" in name)) for name in CELLS])
def test_a_model_computes_the_same_as_with_plain_operators(name):
    build, shape = CELLS[name]
    cell, other = (numpy_layers.draw_parameters(build()).set_train() for _ in range(2))
    x = DRAW.normal(size=shape)
    slopes = DRAW.normal(size=build()(Tensor(x.astype(np.float32))).shape)
    results, statistics = in_training(cell, x, slopes)
    again, _ = in_training(cell, x, slopes)
    with custom_operators.plain_operators():
        plain, others = in_training(other, x, slopes)
    assert len(results) == 2 + len(cell.trainable_params())
    for one, same in zip(results, again, strict=True):
        np.testing.assert_array_equal(one, same)
    results, plain = results + statistics, plain + others
    for one, expected in zip(results, plain, strict=True):
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-5 * max(1e-3, np.abs(expected).max()))
    assert any((one != expected).any() for one, expected in zip(results, plain, strict=True))


def in_training(cell, x, slopes):
    """Return (value and gradients, running statistics) after a call of each."""
    results = value_and_gradients(cell, [x], slopes, mindspore.ParameterTuple(cell.trainable_params()))
    return results, [each.asnumpy().copy() for each in cell.get_parameters() if not each.requires_grad]


@pytest.mark.parametrize("plain", [False, True])
def test_files_have_plain_operators(plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell, x = layers.Mlp(8, 16), Tensor(np.ones((2, 8), np.float32))
    if plain:
        cell(x)  # compiled with the library before
        with custom_operators.plain_operators():
            mindspore.export(cell, x, file_name="mlp.mindir", file_format="MINDIR")
    else:
        mindspore.export(cell, x, file_name="mlp.mindir", file_format="MINDIR")
    assert (b"rp2k_native" in (tmp_path / "mlp.mindir").read_bytes()) != plain


def test_float16_has_plain_operators():
    cell = layers.SiLU()
    x = Tensor(np.array([1.0, -2.0], np.float16))
    np.testing.assert_allclose(cell(x).asnumpy(), [0.7311, -0.2384], atol=1e-3)
    assert cell(x).dtype == mindspore.float16
