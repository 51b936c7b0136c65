import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from rp2k_lab.aug import soft_targets
from rp2k_lab.loss import CrossEntropy, smoothed_cross_entropy

pytestmark = pytest.mark.usefixtures("pynative")


def reference(logits, labels, smoothing):
    """Of labels (batch,) or targets (batch, classes)."""
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
    """Of mixed images: each row two classes, or twice the same."""
    return soft_targets(np.array([0, 1, 2, 4, 1, 3], np.int32), np.linspace(0, 1, 6, dtype=np.float32), 5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_soft_targets_equal_numpy(batch, targets, smoothing):
    logits, _ = batch
    loss = CrossEntropy(smoothing)(Tensor(logits), Tensor(targets))
    assert loss.shape == ()
    assert float(loss.asnumpy()) == pytest.approx(reference(logits, targets, smoothing), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_targets_equal_labels(batch, smoothing):
    logits, labels = batch
    one_hot = Tensor(np.eye(5, dtype=np.float32)[labels])
    of_labels, of_targets = (smoothed_cross_entropy(Tensor(logits), y, smoothing) for y in (Tensor(labels), one_hot))
    assert float(of_targets.asnumpy()) == pytest.approx(float(of_labels.asnumpy()), rel=1e-6)


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


def test_one_cell_compiles_for_either_rank(batch, targets):
    """As a run does: the rank is known when the graph is compiled."""
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
    """In float16 the log-softmax of 2388 equal logits, -7.778, would be rounded to a step of 1/128."""
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
