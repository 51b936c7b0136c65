from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Model, Tensor, nn
from mindspore.amp import FixedLossScaleManager

from rp2k_lab.core.errors import RequestError
from rp2k_lab.train.checkpoint import load_checkpoint, save_checkpoint
from rp2k_lab.train.loss import CrossEntropy
from rp2k_lab.train.optimizer import build_optimizer, clip_by_global_norm, moving_average
from rp2k_lab.train.schedule import cosine_schedule, scaled_rate

pytestmark = pytest.mark.slow

PLAIN = {"lr_batch_size": None, "accumulate_steps": 1, "clip_norm": None, "ema_decay": None}
OPTIONS = SimpleNamespace(lr=0.1, lr_end=0.001, warmup_epochs=0.0, momentum=0.9, weight_decay=0.1, **PLAIN)


def options(**changes) -> SimpleNamespace:
    return SimpleNamespace(**vars(OPTIONS) | changes)


def test_cosine_equals_the_formula():
    rates = cosine_schedule(11, peak=0.4, end=0.1)
    np.testing.assert_allclose(rates, 0.1 + 0.15 * (1 + np.cos(np.pi * np.arange(11) / 10)), rtol=1e-6)
    assert rates.dtype == np.float32


def test_first_and_last_rate_are_exact():
    rates = cosine_schedule(100, peak=0.05, end=1e-6)
    assert rates[0] == np.float32(0.05)
    assert rates[-1] == np.float32(1e-6)
    assert rates[1] < rates[0]


def test_warmup_is_linear_and_reaches_the_peak():
    rates = cosine_schedule(20, peak=0.4, end=0.0, warmup_steps=4)
    np.testing.assert_allclose(rates[:5], [0.1, 0.2, 0.3, 0.4, 0.4], rtol=1e-6)
    assert rates[-1] == 0


@pytest.mark.parametrize("warmup", [0, 1, 7, 49])
def test_rate_rises_only_in_the_warmup(warmup):
    rates = cosine_schedule(50, peak=0.1, end=0.01, warmup_steps=warmup)
    assert len(rates) == 50
    assert (np.diff(rates[:warmup]) > 0).all()
    assert (np.diff(rates[warmup:]) < 0).all()
    assert rates.max() == np.float32(0.1)
    assert rates.min() > 0


@pytest.mark.parametrize("warmup", [5, 6, 500])
def test_a_long_warmup_takes_all_steps(warmup):
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
    """Two steps of SGD with momentum against NumPy; gradients include the loss scale, as in training."""
    net = Tiny()
    optimizer, rates = build_optimizer(OPTIONS, net, epochs=2, steps_per_epoch=2, batch_size=4, loss_scale=loss_scale)
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


def rates_of(epochs, steps_per_epoch, batch_size=4, **changes):
    return build_optimizer(options(**changes), Tiny(), epochs, steps_per_epoch, batch_size)[1]


def test_rates_cover_the_run_and_warmup_counts_epochs():
    np.testing.assert_array_equal(rates_of(3, 8, warmup_epochs=0.5), cosine_schedule(24, 0.1, 0.001, warmup_steps=4))


@pytest.mark.parametrize(("images", "reference", "rate"), [(512, 256, 0.2), (64, 256, 0.025), (64, None, 0.1)])
def test_the_rate_scales_with_the_images_of_an_update(images, reference, rate):
    assert scaled_rate(0.1, images, reference) == pytest.approx(rate)


def test_only_the_peak_is_scaled_and_accumulated_batches_count():
    scaled = rates_of(2, 6, batch_size=32, lr_batch_size=16, accumulate_steps=3, warmup_epochs=0.5)
    np.testing.assert_array_equal(scaled[::3], cosine_schedule(4, 0.1 * 6, 0.001, warmup_steps=1))
    assert scaled[-1] == np.float32(0.001)


def test_the_steps_of_an_update_share_a_rate_across_epochs():
    """Two epochs of 7 steps: three updates of 4 steps, the second from both epochs, and 2 steps without update."""
    rates = rates_of(2, 7, accumulate_steps=4)
    update = cosine_schedule(3, 0.1, 0.001)
    np.testing.assert_array_equal(rates, np.repeat([*update, update[-1]], [4, 4, 4, 2]))


def test_a_run_too_short_for_one_update_is_refused():
    assert len(rates_of(2, 3, accumulate_steps=6)) == 6
    with pytest.raises(RequestError, match=r"^optimizer\.accumulate_steps=7: the run has 6 steps.*\nuse 6 or less"):
        rates_of(2, 3, accumulate_steps=7)


def clipped(gradients, max_norm):
    """Return clipped gradients in NumPy, float64."""
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients))
    return [g * min(1.0, max_norm / norm) for g in gradients]


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


class Reference:
    """SGD with momentum, accumulation, clipping and averages in NumPy, float64."""

    def __init__(self, values, settings):
        self.values = {name: value.astype(np.float64) for name, value in values.items()}
        self.averages = dict(self.values)
        self.velocity = dict.fromkeys(values, 0.0)
        self.settings, self.waiting, self.updates = settings, [], 0

    def step(self, gradients, rates):
        self.waiting.append(gradients)
        if len(self.waiting) < self.settings.accumulate_steps:
            return
        mean = [np.mean([g[name] for g in self.waiting], 0, np.float64) for name in self.values]
        rate = rates[self.updates * self.settings.accumulate_steps]
        self.waiting, self.updates = [], self.updates + 1
        for name, gradient in zip(self.values, clipped(mean, self.settings.clip_norm or np.inf), strict=True):
            decay = self.settings.weight_decay if self.values[name].ndim > 1 else 0.0
            self.velocity[name] = self.settings.momentum * self.velocity[name] + gradient + decay * self.values[name]
            self.values[name] = self.values[name] - rate * self.velocity[name]
            ema_decay = self.settings.ema_decay
            self.averages[name] = ema_decay * self.averages[name] + (1 - ema_decay) * self.values[name]


@pytest.mark.parametrize("accumulate_steps", [1, 3])
@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
@pytest.mark.usefixtures("graph_mode")
def test_all_options_together_equal_numpy(accumulate_steps, loss_scale):
    """In seven steps; with three an update, the last step has no update.  Only some gradients exceed the norm."""
    settings = options(accumulate_steps=accumulate_steps, clip_norm=4.0, ema_decay=0.75)
    average, net = Tiny(), Tiny()
    net.update_parameters_name("trained.")
    cell, rates = build_optimizer(settings, net, 1, 7, 4, loss_scale, average)
    order = [p.name for p in cell.parameters]
    expected = Reference({p.name: p.asnumpy().copy() for p in cell.parameters}, settings)
    rng = np.random.default_rng(0)
    for step in range(7):
        size = 0.2 if step < 3 else 3.0
        gradients = {n: (size * rng.normal(size=v.shape)).astype(np.float32) for n, v in expected.values.items()}
        cell(tuple(Tensor(gradients[name] * np.float32(loss_scale)) for name in order))
        expected.step(gradients, rates)
    assert expected.updates == 7 // accumulate_steps
    averages = {p.name: p.asnumpy() for p in average.get_parameters()}
    for parameter in cell.parameters:
        name = parameter.name
        np.testing.assert_allclose(parameter.asnumpy(), expected.values[name], rtol=1e-5, atol=1e-6, err_msg=name)
        value = averages[name.removeprefix("trained.")]
        np.testing.assert_allclose(value, expected.averages[name], rtol=1e-5, atol=1e-6, err_msg=name)


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


def training(steps, batch_size, loss_scale=1024.0, **changes):
    """Return (compiled step, trained network, its average), built as in a run."""
    average, net = Plain(), Plain()
    net.update_parameters_name("trained.")
    settings = options(lr=0.5, clip_norm=0.4, ema_decay=0.5, **changes)
    cell, _ = build_optimizer(settings, net, 1, steps, batch_size, loss_scale, average)
    manager = FixedLossScaleManager(loss_scale, drop_overflow_update=False)
    model = Model(net, CrossEntropy(0.1), cell, amp_level="O0", loss_scale_manager=manager)
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
    large, net, average = training(2, 12)
    before = values(net)
    run(large, samples, 12)
    small, small_net, small_average = training(6, 4, accumulate_steps=3)
    run(small, samples, 4)
    for one, other in ((net, small_net), (average, small_average)):
        for name, value in values(one).items():
            np.testing.assert_allclose(values(other)[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert max(np.abs(value - before[name]).max() for name, value in values(net).items()) > 0.05


@pytest.mark.usefixtures("graph_mode")
def test_training_resumes_in_the_middle_of_an_update(samples, tmp_path):
    """Bit for bit from a checkpoint of the training step, which has averages, sums and their count."""
    whole, *_ = training(6, 4, accumulate_steps=3)
    run(whole, samples, 4, last=2)
    save_checkpoint(whole, tmp_path / "last.ckpt", 2)
    run(whole, samples, 4, first=2)
    resumed, *_ = training(6, 4, accumulate_steps=3)
    load_checkpoint(resumed, tmp_path / "last.ckpt")
    run(resumed, samples, 4, first=2)
    restored = values(resumed)
    for name, value in values(whole).items():
        np.testing.assert_array_equal(restored[name], value, err_msg=name)
    assert {"accumulated_steps", "trained.layers.0.weight", "layers.0.weight"} <= set(restored)
