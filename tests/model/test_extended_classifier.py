"""The extended classifier in graph mode against NumPy, and the bits of old scores."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.evaluation.metrics import softmax
from rp2k_lab.extension.gallery import Gallery, Whitening, unit
from rp2k_lab.model.extended_classifier import ExtendedClassifier

WIDTH, OLD = 24, 5
pytestmark = pytest.mark.slow


def whitening() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=WIDTH).astype(np.float32), rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)


def centers(classes: int, most: int = 3, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(classes * most, WIDTH)).astype(np.float32)).reshape(classes, most, WIDTH)


def head() -> nn.Dense:
    layer, rng = nn.Dense(WIDTH, OLD), np.random.default_rng(2)
    layer.weight.set_data(Tensor(rng.normal(size=(OLD, WIDTH)).astype(np.float32)))
    layer.bias.set_data(Tensor(rng.normal(size=OLD).astype(np.float32)))
    return layer


def features(images: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(images, WIDTH)).astype(np.float32)


def classes_scores(points: np.ndarray, all_centers: np.ndarray) -> np.ndarray:
    classes, most, _ = all_centers.shape
    gallery = Gallery(all_centers.reshape(-1, WIDTH), np.repeat(np.arange(classes, dtype=np.int32), most))
    return gallery.scores(Whitening(*whitening())(points))


def test_centers_alone_give_the_softmax_of_scaled_cosines():
    every, points = centers(8), features(6)
    cell = ExtendedClassifier(head(), whitening(), every, 9.0, (0, 1, 2, 3, 4, -1, -1, -1), None).set_train(False)
    expected = classes_scores(points, every)
    np.testing.assert_allclose(softmax(cell(Tensor(points)).asnumpy()), softmax(9 * expected), atol=2e-6)
    vectors, scores = cell.embed_and_score(Tensor(points))
    np.testing.assert_allclose(vectors.asnumpy(), Whitening(*whitening())(points), atol=2e-6)
    np.testing.assert_allclose(scores.asnumpy(), expected.max(axis=1), atol=2e-6)


@pytest.mark.parametrize("labels", [(0, 1, 2, 3, 4, -1, -1), (0, 1, 2, 3, 4), (0, 2, 4, -1, -1), (-1, -1)])
def test_the_head_divides_the_old_classes_probability(labels):
    old = [label for label in labels if label >= 0]
    every, points = centers(len(labels)), features(7)
    cell = ExtendedClassifier(head(), whitening(), every, 9.0, labels, 1.7).set_train(False)
    by_centers = softmax(9 * classes_scores(points, every))
    logits = head()(Tensor(points)).asnumpy()[:, old] / 1.7
    shares = by_centers[:, : len(old)].sum(axis=1, keepdims=True)
    expected = np.concatenate([shares * softmax(logits), by_centers[:, len(old) :]], axis=1) if old else by_centers
    found = softmax(cell(Tensor(points)).asnumpy())
    np.testing.assert_allclose(found, expected, atol=3e-6)
    if old:  # among old classes the head's order
        np.testing.assert_array_equal(found[:, : len(old)].argmax(axis=1), logits.argmax(axis=1))


@pytest.mark.parametrize("images", [1, 2, 32])
def test_more_classes_move_no_bit_of_old_cosines(images):
    class Cosines(nn.Cell):
        def __init__(self, classifier):
            super().__init__()
            self.classifier = classifier

        def construct(self, x):
            return self.classifier._cosines(self.classifier._embed(x))

    def old_cosines(added: int) -> np.ndarray:
        every = np.concatenate([centers(40, 5), centers(added, 5, seed=9)])
        cell = ExtendedClassifier(head(), whitening(), every, 9.0, (*range(OLD), *[-1] * (35 + added)), None)
        return Cosines(cell).set_train(False)(Tensor(features(images))).asnumpy()[:, :40]

    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    first = old_cosines(1)
    assert all((old_cosines(added) == first).all() for added in (2, 24, 600))
