import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from rp2k_lab.loss import CrossEntropy, smoothed_cross_entropy

pytestmark = pytest.mark.usefixtures("pynative")


def reference(logits, labels, smoothing):
    logits = logits.astype(np.float64)
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    target = (1 - smoothing) * np.eye(logits.shape[1])[labels] + smoothing / logits.shape[1]
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
