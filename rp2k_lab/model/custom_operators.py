"""Operators of the native library (rp2k_lab/native) in graphs on CPU; models have plain operators beside each.

A call needs `in_use(dtype)`, which a graph asks while it is compiled.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import mindspore
from mindspore import Parameter, Tensor, context, nn, ops
from mindspore.ops import constexpr
from mindspore.ops import signature as sig

from rp2k_lab import native

_plain = False


# The library's file; None if it is off.
_FILE = None if native.state().version is None else native.kernels_file()


@constexpr
def in_use(dtype: mindspore.Type) -> bool:
    """Return whether the operators may be called with this dtype."""
    return (
        _FILE is not None
        and not _plain
        and dtype == mindspore.float32
        and context.get_context("device_target") == "CPU"
    )


@contextlib.contextmanager
def plain_operators() -> Iterator[None]:
    """Compile graphs without native operators, for files that other programs read."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def _first(x, *_others):
    return x


def _operator(name: str, shape: Callable = _first, dtype: Callable = _first, bprop: Callable | None = None) -> Any:
    """Return a function of the library as an operator; None if the library is off.

    Args:
        name: in the C API, without its prefix.
        shape, dtype: of the output or outputs, for those of the inputs.
        bprop: (*inputs, output, gradient of the output) to the gradient of each input.
    """
    return None if _FILE is None else ops.Custom(f"{_FILE}:rp2k_native_{name}", shape, dtype, "aot", bprop)


class _InPlace(ops.Custom):
    """An operator that changes some of its inputs, parameters, in place.

    Args:
        inputs: names; those that change end with "!".
        name, shape, dtype, bprop: see `_operator`.
    """

    def __init__(self, name: str, inputs: str, shape: Callable, dtype: Callable = _first, bprop: Any = None):
        super().__init__(f"{_FILE}:rp2k_native_{name}", shape, dtype, "aot", bprop)
        # Without dtypes: PyNative mode keeps those of the first call of any `ops.Custom` for all (MindSpore 2.10).
        signatures = []
        for each in inputs.split():
            access = sig.sig_rw.RW_WRITE if each.endswith("!") else sig.sig_rw.RW_READ
            signatures.append(sig.make_sig(each.rstrip("!"), access))
        self.set_signatures(signatures)
        self.add_prim_attr("side_effect_mem", True)  # keeps its place among the reads of its parameters


_sum_rows = _operator("sum_rows", lambda x: x[-1:])
_bias_gelu_gradient = _operator("bias_gelu_gradient", lambda x, bias, _dy: (x, bias), lambda x, bias, _dy: (x, bias))
_layer_norm_gradient = _operator(
    "layer_norm_gradient", lambda x, gamma, _eps, _dy: (x, gamma, gamma), lambda x, gamma, _eps, _dy: (x, gamma, gamma)
)
_attention_gradient = _operator(
    "attention_gradient", lambda qkv, bias, _mask, _dy: (qkv, bias), lambda qkv, bias, _mask, _dy: (qkv, bias)
)

_silu_gradient = _operator("silu_gradient")
_map_means_gradient = _operator("map_means_gradient")
_scale_maps_gradient = _operator("scale_maps_gradient", lambda x, gate, _dy: (x, gate), lambda x, gate, _dy: (x, gate))

_norm_relu_gradient = _operator("norm_relu_gradient", lambda x, scale, *_: (x, scale, scale), lambda x, *_: (x, x, x))
_norm_add_relu_gradient = _operator(
    "norm_add_relu_gradient", lambda x, _y, scale, *_: (x, x, scale, scale), lambda x, *_: (x, x, x, x)
)
_add_relu_gradient = _operator("add_relu_gradient")
_max_pool_gradient = _operator("max_pool_gradient", lambda x, _y, _dy: x, lambda x, _y, _dy: x)


def _add_bias_bprop(_x, _bias, _y, dy):
    return dy, _sum_rows(dy)


def _bias_gelu_bprop(x, bias, _y, dy):
    return _bias_gelu_gradient(x, bias, dy)


def _layer_norm_bprop(x, gamma, _beta, eps, _y, dy):
    dx, dgamma, dbeta = _layer_norm_gradient(x, gamma, eps, dy)
    return dx, dgamma, dbeta, ops.zeros_like(eps)


def _attention_bprop(qkv, bias, mask, _y, dy):
    dqkv, dbias = _attention_gradient(qkv, bias, mask, dy)
    return dqkv, dbias, ops.zeros_like(mask)


def _take_rows_bprop(_x, order, inverse, _y, dy):
    return _take_rows_back(dy, inverse, order), ops.zeros_like(order), ops.zeros_like(inverse)


def _silu_bprop(x, _y, dy):
    return (_silu_gradient(x, dy),)


def _map_means_bprop(x, _y, dy):
    return (_map_means_gradient(x, dy),)


def _scale_maps_bprop(x, gate, _y, dy):
    return _scale_maps_gradient(x, gate, dy)


def _norm_relu_bprop(x, scale, shift, running_mean, running_variance, options, outputs, gradients):
    _y, mean, variance = outputs
    dx, dscale, dshift = _norm_relu_gradient(x, scale, shift, mean, variance, options, gradients[0])
    zeros = ops.zeros_like(mean)
    return dx, dscale, dshift, zeros, zeros, ops.zeros_like(options)


def _norm_add_relu_bprop(x, residual, scale, shift, running_mean, running_variance, options, outputs, gradients):
    y, mean, variance = outputs
    dx, dresidual, dscale, dshift = _norm_add_relu_gradient(x, y, scale, mean, variance, options, gradients[0])
    zeros = ops.zeros_like(mean)
    return dx, dresidual, dscale, dshift, zeros, zeros, ops.zeros_like(options)


def _add_relu_bprop(_a, _b, y, dy):
    slope = _add_relu_gradient(y, dy)
    return slope, slope


def _max_pool_bprop(x, y, dy):
    return (_max_pool_gradient(x, y, dy),)


_take_rows_back = _operator("take_rows", lambda x, order, _inverse: (x[0], order[0], x[2]))
_add_bias = _operator("add_bias", bprop=_add_bias_bprop)
_bias_gelu = _operator("bias_gelu", bprop=_bias_gelu_bprop)
_layer_norm = _operator("layer_norm", bprop=_layer_norm_bprop)
_attention = _operator("attention", lambda qkv, _bias, _mask: (*qkv[:2], qkv[2] // 3), bprop=_attention_bprop)
_take_rows = _operator("take_rows", lambda x, order, _inverse: (x[0], order[0], x[2]), bprop=_take_rows_bprop)

_momentum: Any = None
_norm_relu: Any = None
_norm_add_relu: Any = None
if _FILE is not None:
    _momentum = _InPlace("momentum", "weight! velocity! gradient rate momentum decay", lambda *_: (1,))
    _norm_relu = _InPlace(
        "norm_relu",
        "x scale shift running_mean! running_variance! options",
        lambda x, scale, *_: (x, scale, scale),
        lambda x, *_: (x, x, x),
        _norm_relu_bprop,
    )
    _norm_add_relu = _InPlace(
        "norm_add_relu",
        "x residual scale shift running_mean! running_variance! options",
        lambda x, _residual, scale, *_: (x, scale, scale),
        lambda x, *_: (x, x, x),
        _norm_add_relu_bprop,
    )
_add_relu = _operator("add_relu", bprop=_add_relu_bprop)
_silu = _operator("silu", bprop=_silu_bprop)
_map_means = _operator("map_means", lambda x: x[:2], bprop=_map_means_bprop)
_scale_maps = _operator("scale_maps", bprop=_scale_maps_bprop)

_max_pool = _operator(
    "max_pool", lambda x: (*x[:2], (x[2] + 1) // 2, (x[3] + 1) // 2), lambda x: x, bprop=_max_pool_bprop
)


def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """Return x (…, channels) plus bias (channels)."""
    return _add_bias(x, bias)


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Return the exact GELU of x (…, channels) plus bias (channels), to 1e-6."""
    return _bias_gelu(x, bias)


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: Tensor) -> Tensor:
    """Return x (…, channels) normalized over its last axis; eps: a scalar."""
    return _layer_norm(x, gamma, beta, eps)


def attention(qkv: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Return softmax(query · key / √width + bias + mask) · value, (groups, tokens, channels).

    Args:
        qkv: (groups, tokens, 3 · channels): queries, keys, values, each (heads, width).
        bias: (heads, tokens, tokens), or zeros (heads, 1, 1) for none.
        mask: (masks, tokens, tokens), that of group g is g % masks; or zeros (1, 1, 1) for none.
    """
    return _attention(qkv, bias, mask)


def take_rows(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Return rows of x (batch, rows, channels) in another order, (batch, places, channels).

    Args:
        order: int32 (places,): the row of each place, or -1 for zeros; a row has one place at most.
        inverse: int32 (rows,): the place of each row, or -1.
    """
    return _take_rows(x, order, inverse)


def silu(x: Tensor) -> Tensor:
    """Return x · sigmoid(x)."""
    return _silu(x)


def map_means(x: Tensor) -> Tensor:
    """Return the mean over positions: (batch, channels, height, width) to (batch, channels)."""
    return _map_means(x)


def scale_maps(x: Tensor, gate: Tensor) -> Tensor:
    """Return x (batch, channels, height, width) times gate (batch, channels)."""
    return _scale_maps(x, gate)


def update_by_momentum(
    weight: Parameter, velocity: Parameter, gradient: Tensor, rate: Tensor, momentum: Tensor, decay: Tensor
) -> Tensor:
    """Change in place: velocity = momentum · velocity + gradient + decay · weight; weight -= rate · velocity.

    Args:
        rate, momentum, decay: scalars.

    Returns:
        A tensor without meaning, which the graph's output must depend on.
    """
    return _momentum(weight, velocity, gradient, rate, momentum, decay)


def max_pool(x: Tensor) -> Tensor:
    """Return the maximum of 3×3 places around every other one, of x (batch, channels, height, width) ≥ 0.

    The slope goes to the first place, row by row, that has the maximum.
    """
    return _max_pool(x)


def norm_relu(norm: nn.BatchNorm2d, x: Tensor, residual: Tensor | None, ceiling: float) -> Tensor:
    """Return min(max(norm(x) + residual, 0), ceiling) in training; the norm's running statistics move.

    Args:
        x, residual: (batch, channels, height, width); no residual is 0.
    """
    options = Tensor((norm.eps, norm.momentum, ceiling), mindspore.float32)
    running = norm.moving_mean, norm.moving_variance
    if residual is None:
        return _norm_relu(x, norm.gamma, norm.beta, *running, options)[0]
    return _norm_add_relu(x, residual, norm.gamma, norm.beta, *running, options)[0]


def add_relu(a: Tensor, b: Tensor) -> Tensor:
    """Return max(a + b, 0) of tensors of one shape."""
    return _add_relu(a, b)
