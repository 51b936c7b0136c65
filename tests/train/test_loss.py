import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from rp2k_lab.aug import soft_targets
from rp2k_lab.train.loss import (
    CrossEntropy,
    LogitAdjusted,
    logit_adjusted_cross_entropy,
    logit_adjustment,
    smoothed_cross_entropy,
)

pytestmark = pytest.mark.usefixtures("pynative")


def reference(logits, labels, smoothing):
    """Return the loss in NumPy, for labels (batch,) or targets (batch, classes)."""
    logits = logits.astype(np.float64)
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    targets = np.eye(logits.shape[1])[labels] if labels.ndim == 1 else labels
    target = (1 - smoothing) * targets + smoothing / logits.shape[1]
    return -(target * log_p).sum(1).mean()


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (6, 5)).astype(np.float32), rng.integers(0, 5, 6).astype(np.int32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_equals_numpy(batch, smoothing):
    logits, labels = batch
    loss = CrossEntropy(smoothing)(Tensor(logits), Tensor(labels))
    assert loss.shape == ()
    assert float(loss.asnumpy()) == pytest.approx(reference(logits, labels, smoothing), rel=1e-5)


@pytest.fixture
def targets():
    """Return targets of mixed images: each row has two classes, or one class twice."""
    return soft_targets(np.array([0, 1, 2, 4, 1, 3], np.int32), np.linspace(0, 1, 6, dtype=np.float32), 5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_soft_targets_equal_numpy(batch, targets, smoothing):
    logits, _ = batch
    loss = CrossEntropy(smoothing)(Tensor(logits), Tensor(targets))
    assert loss.shape == ()
    assert float(loss.asnumpy()) == pytest.approx(reference(logits, targets, smoothing), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_targets_give_the_loss_of_labels(batch, smoothing):
    logits, labels = batch
    one_hot = Tensor(np.eye(5, dtype=np.float32)[labels])
    expected, loss = (smoothed_cross_entropy(Tensor(logits), y, smoothing) for y in (Tensor(labels), one_hot))
    assert float(loss.asnumpy()) == pytest.approx(float(expected.asnumpy()), rel=1e-6)


def test_soft_targets_in_half_precision_are_computed_in_float32():
    targets = Tensor(np.full((2, 2388), 1 / 2388, np.float32))
    loss = smoothed_cross_entropy(Tensor(np.zeros((2, 2388), np.float16)), targets, 0.1)
    assert loss.dtype == mindspore.float32
    assert float(loss.asnumpy()) == pytest.approx(np.log(2388), abs=1e-4)


def test_gradient_of_soft_targets_is_softmax_minus_target(batch, targets):
    logits, _ = batch
    gradient = mindspore.grad(lambda x: smoothed_cross_entropy(x, Tensor(targets), 0.1))(Tensor(logits)).asnumpy()
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(gradient, (softmax - 0.9 * targets - 0.1 / 5) / 6, atol=1e-6)


def test_one_cell_compiles_for_labels_and_targets(batch, targets):
    """The number of dimensions is known when the graph is compiled."""
    logits, labels = batch
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    cell = CrossEntropy(0.1)
    for y in (labels, targets):
        loss = cell(Tensor(logits), Tensor(y))
        assert float(loss.asnumpy()) == pytest.approx(reference(logits, y, 0.1), rel=1e-5)


def test_gradient_is_softmax_minus_target(batch):
    logits, labels = batch
    gradient = mindspore.grad(lambda x: smoothed_cross_entropy(x, Tensor(labels), 0.1))(Tensor(logits)).asnumpy()
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = 0.9 * np.eye(5)[labels] + 0.1 / 5
    np.testing.assert_allclose(gradient, (softmax - target) / len(labels), atol=1e-6)


def test_half_precision_logits_are_computed_in_float32():
    """Float16 would round the log-softmax of 2388 equal logits, -7.778, to a multiple of 1/128."""
    loss = smoothed_cross_entropy(Tensor(np.zeros((2, 2388), np.float16)), Tensor(np.zeros(2, np.int32)), 0.1)
    assert loss.dtype == mindspore.float32
    assert float(loss.asnumpy()) == pytest.approx(np.log(2388), abs=1e-5)


def test_large_logits_stay_finite():
    logits = Tensor(np.array([[1000.0, -1000.0]], np.float32))
    assert float(smoothed_cross_entropy(logits, Tensor(np.array([1], np.int32)), 0.0).asnumpy()) == pytest.approx(2000)


def test_smoothing_is_a_property_of_the_cell(batch):
    logits, labels = (Tensor(part) for part in batch)
    assert float(CrossEntropy()(logits, labels).asnumpy()) != pytest.approx(
        float(CrossEntropy(0.5)(logits, labels).asnumpy())
    )


COUNTS = np.array([50, 30, 15, 4, 1])
LOG_FRACTIONS = np.log([0.5, 0.3, 0.15, 0.04, 0.01])


class TestLogitAdjusted:
    @pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_equals_numpy(self, batch, targets, tau, smoothing):
        logits, labels = batch
        cell = LogitAdjusted(COUNTS, tau, smoothing)
        for y in (labels, targets):
            loss = cell(Tensor(logits), Tensor(y))
            assert loss.shape == ()
            expected = reference(logits + tau * LOG_FRACTIONS, y, smoothing)
            assert float(loss.asnumpy()) == pytest.approx(expected, rel=1e-5)

    def test_is_the_papers_equation_with_margins(self, batch):
        """Equation 11: log(1 + sum over y' ≠ y of (π_y' / π_y) ^ tau · exp(f_y' - f_y)), π the class fractions."""
        logits, labels = batch
        fractions, tau = COUNTS / COUNTS.sum(), 1.5
        expected = [
            np.log1p(sum((fractions[o] / fractions[y]) ** tau * np.exp(f[o] - f[y]) for o in range(5) if o != y))
            for f, y in zip(logits.astype(np.float64), labels, strict=True)
        ]
        loss = LogitAdjusted(COUNTS, tau)(Tensor(logits), Tensor(labels))
        assert float(loss.asnumpy()) == pytest.approx(np.mean(expected), rel=1e-5)

    def test_tau_zero_is_cross_entropy(self, batch, targets):
        logits, labels = batch
        for y in (labels, targets):
            plain, adjusted = (
                cell(Tensor(logits), Tensor(y)) for cell in (CrossEntropy(0.1), LogitAdjusted(COUNTS, 0, 0.1))
            )
            assert float(adjusted.asnumpy()) == float(plain.asnumpy())

    def test_gradient_by_finite_differences(self, batch, targets):
        logits, labels = batch
        adjustment, step = Tensor(logit_adjustment(COUNTS, 1.0)), 1e-5
        for y in (labels, targets):
            loss = lambda x, y=y: logit_adjusted_cross_entropy(x, Tensor(y), 0.1, adjustment)  # noqa: E731
            gradient = mindspore.grad(loss)(Tensor(logits)).asnumpy()
            for position in np.ndindex(logits.shape):
                shift = np.zeros(logits.shape)
                shift[position] = step
                above, below = (reference(logits + sign * shift + LOG_FRACTIONS, y, 0.1) for sign in (1, -1))
                assert gradient[position] == pytest.approx((above - below) / (2 * step), abs=1e-6)

    def test_a_rare_class_has_a_larger_gradient_than_a_frequent_one(self):
        """With equal logits, the label's gradient is its fraction - 1."""
        loss = lambda x: logit_adjusted_cross_entropy(  # noqa: E731
            x, Tensor(np.array([0, 4], np.int32)), 0.0, Tensor(logit_adjustment(COUNTS, 1.0))
        )
        gradient = mindspore.grad(loss)(Tensor(np.zeros((2, 5), np.float32))).asnumpy()
        np.testing.assert_allclose([gradient[0, 0], gradient[1, 4]], [-0.5 / 2, -0.99 / 2], atol=1e-6)

    def test_a_class_without_images_counts_as_one_image(self, batch):
        np.testing.assert_allclose(logit_adjustment(np.array([9, 0]), 2.0), 2 * np.log([0.9, 0.1]), rtol=1e-6)
        logits, labels = batch
        loss = LogitAdjusted(np.array([5, 0, 3, 0, 1]), 1.0, 0.1)(Tensor(logits), Tensor(labels))
        assert np.isfinite(loss.asnumpy())

    def test_half_precision_logits_are_adjusted_in_float32(self):
        """Float16 would round 1000 + log(fraction) to a multiple of 1/2."""
        loss = LogitAdjusted(np.array([9, 1]), 1.0)(
            Tensor(np.full((1, 2), 1000, np.float16)), Tensor(np.array([1], np.int32))
        )
        assert loss.dtype == mindspore.float32
        assert float(loss.asnumpy()) == pytest.approx(-np.log(0.1), abs=1e-3)

    def test_compiles_for_labels_and_targets(self, batch, targets):
        logits, labels = batch
        mindspore.set_context(mode=mindspore.GRAPH_MODE)
        cell = LogitAdjusted(COUNTS, 1.0, 0.1)
        for y in (labels, targets):
            loss = cell(Tensor(logits), Tensor(y))
            assert float(loss.asnumpy()) == pytest.approx(reference(logits + LOG_FRACTIONS, y, 0.1), rel=1e-5)
