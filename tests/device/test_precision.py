"""Precision of a process on a card that is not here, and of networks on the CPU."""

from types import SimpleNamespace

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.ops import constexpr

from rp2k_lab.device import precision
from rp2k_lab.model.layers import LayerNorm, conv, global_mean, norm_relu
from tests.helpers.losses import CrossEntropy


@pytest.fixture
def calls(monkeypatch):
    """What `set_up` tells MindSpore, as (name, value)."""
    calls = []
    for name in ("conv_allow_tf32", "matmul_allow_tf32"):
        monkeypatch.setattr(precision.op_precision, name, lambda value, name=name: calls.append((name, value)))
    monkeypatch.setattr(mindspore, "set_deterministic", lambda value: calls.append(("deterministic", value)))
    precision._set_deterministic.cache_clear()
    yield calls
    precision._set_deterministic.cache_clear()


def options(**changes):
    default = {"name": "gpu", "precision": "O2", "loss_scale": "dynamic", "deterministic": False}
    return SimpleNamespace(**default | changes)


@pytest.mark.parametrize("name", ["float32", "tf32", *precision.HALF])
def test_convolutions_on_a_gpu_use_tf32_only_if_asked_to(calls, name):
    precision.set_up(options(precision=name))
    assert dict(calls) == {"conv_allow_tf32": name == "tf32", "matmul_allow_tf32": False}


def test_a_cpu_is_told_nothing(calls):
    precision.set_up(options(name="cpu", precision="float32", deterministic=True))
    assert calls == []


@pytest.mark.parametrize("name", ["gpu", "ascend"])
def test_deterministic_kernels_are_asked_for_once(calls, name):
    """MindSpore refuses a second call, and a search runs its jobs in one process."""
    for _ in range(2):
        precision.set_up(options(name=name, deterministic=True))
    assert calls.count(("deterministic", True)) == 1


@pytest.mark.parametrize(
    ("changes", "dynamic", "fixed"),
    [
        ({}, True, 1),
        ({"precision": "tf32"}, False, 1),
        ({"precision": "float32"}, False, 1),
        ({"loss_scale": 1024.0}, False, 1024),
        ({"precision": "float32", "loss_scale": 1024.0}, False, 1024),
    ],
)
def test_the_scale_is_dynamic_only_where_activations_are_half(changes, dynamic, fixed):
    assert precision.has_dynamic_scale(options(**changes)) == dynamic
    assert precision.fixed_scale(options(**changes)) == fixed


class Batch(nn.BatchNorm2d):
    """A batch norm that notes the dtypes that it is compiled with."""

    def construct(self, x):
        return super().construct(x) if _note("batch", x.dtype, self.gamma.dtype, self.moving_mean.dtype) else x


class Layer(LayerNorm):
    """A layer norm that notes its input's dtype."""

    def construct(self, x):
        return super().construct(x) if _note("layer", x.dtype) else x


_dtypes: dict[str, set] = {}


@constexpr
def _note(name, *dtypes):
    _dtypes.setdefault(name, set()).add(tuple(map(str, dtypes)))
    return True


class Small(nn.Cell):
    """Convolution, batch norm and ReLU, layer norm, classifier."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = conv(3, 8, 3), Batch(8)
        self.norm, self.fc = Layer(8), nn.Dense(8, 4)

    def construct(self, x):
        x = norm_relu(self.bn, self.conv(x))
        assert _note("after", x.dtype)
        return self.fc(self.norm(global_mean(x)))


HALF, SINGLE = "Float16", "Float32"


@pytest.mark.parametrize(
    ("name", "batch", "layer"),
    [
        ("O2_half_bn", HALF, SINGLE),
        pytest.param("O2", SINGLE, SINGLE, marks=pytest.mark.soak),
        pytest.param("O3", HALF, HALF, marks=pytest.mark.soak),
    ],
)
@pytest.mark.usefixtures("graph_mode")
def test_norms_are_in_the_precision_that_the_choice_names(name, batch, layer):
    """Parameters and running statistics are float32 in all, and finite like loss and gradients over 20 steps."""
    _dtypes.clear()
    net, rng = Small(), np.random.default_rng(0)
    optimizer = nn.Momentum(net.trainable_params(), 0.05, 0.9)
    network = nn.WithLossCell(precision.cast(net, name), CrossEntropy(0.0))
    train = nn.TrainOneStepCell(network, optimizer, return_grad=True).set_train()
    labels = np.arange(8, dtype=np.int32) % 4
    images = (rng.normal(size=(8, 3, 9, 9)) + labels[:, None, None, None]).astype(np.float32)
    losses = []
    for _ in range(20):
        loss, gradients = train(Tensor(images), Tensor(labels))
        losses.append(float(loss.asnumpy()))
        assert loss.dtype == mindspore.float32
        assert all(g.dtype == mindspore.float32 and np.isfinite(g.asnumpy()).all() for g in gradients.values())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] / 2
    values = {p.name: p for p in net.get_parameters()}
    assert all(p.dtype == mindspore.float32 and np.isfinite(p.asnumpy()).all() for p in values.values())
    assert (values["bn.moving_mean"].asnumpy() != 0).all()
    # What float16 cannot hold: the statistics are updated in float32.
    variance = values["bn.moving_variance"].asnumpy()
    assert (variance != variance.astype(np.float16)).any()
    assert _dtypes["batch"] == {(batch, SINGLE, SINGLE)}
    assert _dtypes["layer"] == {(layer,)}
    assert _dtypes["after"] == {(HALF,)}


@pytest.mark.soak
@pytest.mark.usefixtures("graph_mode")
def test_o2_has_the_bits_of_mindspores_model():
    """Runs of earlier versions trained so, and are resumed."""

    def losses(build):
        net = Small()
        rng = np.random.default_rng(1)
        for parameter in net.trainable_params():
            parameter.set_data(Tensor(rng.normal(0, 0.3, parameter.shape).astype(np.float32)))
        train = build(net, CrossEntropy(0.1), nn.Momentum(net.trainable_params(), 0.05, 0.9))
        images = rng.normal(size=(8, 3, 9, 9)).astype(np.float32)
        train.set_train()
        return [train(Tensor(images), Tensor(np.arange(8, dtype=np.int32) % 4)).asnumpy() for _ in range(5)]

    def ours(net, loss, optimizer):
        return mindspore.Model(precision.cast(net, "O2"), loss, optimizer, loss_scale_manager=None).train_network

    def theirs(net, loss, optimizer):
        return mindspore.Model(net, loss, optimizer, amp_level="O2", loss_scale_manager=None).train_network

    assert losses(ours) == losses(theirs)
