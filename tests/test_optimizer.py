from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.optimizer import build_optimizer, cosine_schedule

OPTIONS = SimpleNamespace(lr=0.1, lr_end=0.001, warmup_epochs=0.0, momentum=0.9, weight_decay=0.1)


def test_cosine_equals_the_formula():
    rates = cosine_schedule(11, peak=0.4, end=0.1)
    np.testing.assert_allclose(rates, 0.1 + 0.15 * (1 + np.cos(np.pi * np.arange(11) / 10)), rtol=1e-6)
    assert rates.dtype == np.float32


def test_ends_are_exact():
    rates = cosine_schedule(100, peak=0.05, end=1e-6)
    assert rates[0] == np.float32(0.05)
    assert rates[-1] == np.float32(1e-6)
    assert rates[1] < rates[0]


def test_warmup_is_linear_and_reaches_the_peak():
    rates = cosine_schedule(20, peak=0.4, end=0.0, warmup_steps=4)
    np.testing.assert_allclose(rates[:5], [0.1, 0.2, 0.3, 0.4, 0.4], rtol=1e-6)
    assert rates[-1] == 0


@pytest.mark.parametrize("warmup", [0, 1, 7, 49])
def test_rises_in_the_warmup_and_never_after(warmup):
    rates = cosine_schedule(50, peak=0.1, end=0.01, warmup_steps=warmup)
    assert len(rates) == 50
    assert (np.diff(rates[:warmup]) > 0).all()
    assert (np.diff(rates[warmup:]) < 0).all()
    assert rates.max() == np.float32(0.1)
    assert rates.min() > 0


@pytest.mark.parametrize("warmup", [5, 6, 500])
def test_warmup_as_long_as_the_run_or_longer_takes_all_steps(warmup):
    np.testing.assert_allclose(cosine_schedule(5, peak=1.0, end=0.0, warmup_steps=warmup), [0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize(("steps", "warmup"), [(10, 9), (10, 8), (2, 0)])
def test_last_step_has_the_end_rate_unless_warmup_takes_all(steps, warmup):
    assert cosine_schedule(steps, peak=0.1, end=0.001, warmup_steps=warmup)[-1] == np.float32(0.001)


class Tiny(nn.Cell):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, has_bias=True, weight_init="ones", bias_init="ones")
        self.norm = nn.BatchNorm2d(2, gamma_init="ones", beta_init="ones")
        self.fc = nn.Dense(2, 3, weight_init="ones", bias_init="ones")


@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
@pytest.mark.usefixtures("pynative")
def test_decay_acts_on_weights_but_not_on_norms_and_biases(loss_scale):
    """Two steps of SGD with momentum against NumPy; the gradients come multiplied by the loss scale, as in training."""
    net = Tiny()
    optimizer, rates = build_optimizer(OPTIONS, net, epochs=2, steps_per_epoch=2, loss_scale=loss_scale)
    rng = np.random.default_rng(0)
    expected = {p.name: p.asnumpy().copy() for p in net.trainable_params()}
    velocity = dict.fromkeys(expected, 0.0)
    assert {p.name for p in optimizer.parameters} == set(expected)
    for step in range(2):
        gradients = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in expected.items()}
        optimizer(tuple(Tensor(gradients[p.name] * np.float32(loss_scale)) for p in optimizer.parameters))
        for name, value in expected.items():
            decay = OPTIONS.weight_decay if name in ("conv.weight", "fc.weight") else 0.0
            velocity[name] = OPTIONS.momentum * velocity[name] + gradients[name] + decay * value
            expected[name] = value - rates[step] * velocity[name]
    for parameter in net.trainable_params():
        np.testing.assert_allclose(parameter.asnumpy(), expected[parameter.name], rtol=1e-5, err_msg=parameter.name)


def test_rates_cover_the_run_and_warm_up_in_epochs():
    options = SimpleNamespace(**vars(OPTIONS) | {"warmup_epochs": 0.5})
    rates = build_optimizer(options, Tiny(), epochs=3, steps_per_epoch=8)[1]
    np.testing.assert_array_equal(rates, cosine_schedule(24, 0.1, 0.001, warmup_steps=4))
