import numpy as np
import pandas as pd
import pytest
from mindspore import Tensor, nn, ops

from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.evaluator import Evaluator
from rp2k_lab.evaluation.metrics import Score
from rp2k_lab.evaluation.predictor import Member, Predictor, Preprocessing

pytestmark = pytest.mark.usefixtures("pynative")

LABELS = [0, 1, 2, 0, 1, 2, 2]
BATCH_SIZE = 3


class ByColor(nn.Cell):
    """Logits: mean red, green and blue after a batch norm, which differs between train and evaluation mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def construct(self, images):
        return self.norm(ops.transpose(images.astype("float32"), (0, 3, 1, 2))).mean((2, 3))


def make_image(label):
    image = np.full((4, 4, 3), 10, np.uint8)
    image[..., label] = 20
    return image


@pytest.fixture
def index(tmp_path):
    rows = [(f"train/{i}.jpg", i % 3, "train") for i in range(9)]
    rows += [(f"test/{i}.jpg", label, "test") for i, label in enumerate(LABELS)]
    table = pd.DataFrame(rows, columns=["path", "label", "split"])
    table["class"] = [["red", "green", "others"][label] for label in table["label"]]
    return Index(tmp_path, table, ["red", "green", "others"], "", "", table[:0])


@pytest.fixture
def labels_seen():
    """The images' colors, in the split's order; the last differs from its label."""
    return [0, 1, 2, 0, 1, 2, 0]


@pytest.fixture
def evaluator(index, labels_seen):
    def batches():
        for start in range(0, len(labels_seen), BATCH_SIZE):
            yield [np.stack([make_image(label) for label in labels_seen[start : start + BATCH_SIZE]])]

    return Evaluator(Predictor([member()], BATCH_SIZE), index, "test", batches)


def member(sign=1):
    """Return a network that predicts the color (sign 1) or the opposite (-1)."""
    network = ByColor()
    network.norm.gamma.set_data(Tensor(np.full(3, sign, np.float32)))
    return Member("by color", network, Preprocessing((4, 4), "stretch", 1.0))


def test_predicts_every_image_in_order(evaluator, labels_seen):
    predictions = evaluator.predict()
    assert predictions.labels.tolist() == LABELS
    assert predictions.top_labels[:, 0].tolist() == labels_seen
    assert predictions.top_labels.shape == predictions.top_probabilities.shape == (7, 3)
    np.testing.assert_allclose(predictions.top_probabilities.sum(1), 1, rtol=1e-5)


def test_predicts_in_evaluation_mode_and_restores_train_mode(evaluator):
    network = evaluator.predictor.members[0].network.set_train(True)
    before = network.norm.moving_mean.asnumpy().copy()
    first = evaluator.predict().top_probabilities
    assert network.training
    np.testing.assert_array_equal(network.norm.moving_mean.asnumpy(), before)
    np.testing.assert_array_equal(evaluator.predict().top_probabilities, first)


def test_uses_current_weights(evaluator):
    before = evaluator.predict().top_labels[:, 0]
    evaluator.predictor.members[0].network.norm.gamma.set_data(Tensor(np.full(3, -1, np.float32)))
    assert (evaluator.predict().top_labels[:, 0] != before).all()


def test_scores(evaluator):
    predictions, table, scores = evaluator.evaluate("others")
    assert scores["top1"] == Score(6 / 7, 7, scores["top1"].low, scores["top1"].high)
    assert scores["top1_without_others"].value == 1
    assert table["train_images"].tolist() == [3, 3, 3]
    assert table["correct"].tolist() == [2, 2, 2]
    assert len(predictions.labels) == 7


def test_members_and_average_come_from_one_pass(index, labels_seen):
    passes = []

    def batches():
        passes.append(1)
        yield from ([np.stack([make_image(label)] * 1)] for label in labels_seen)

    evaluator = Evaluator(Predictor([member(), member(-3)], 1), index, "test", batches)
    right, wrong, average = evaluator.predict_each()
    assert len(passes) == 1
    assert right.top_labels[:, 0].tolist() == labels_seen
    assert (wrong.top_labels[:, -1] == labels_seen).all()
    np.testing.assert_array_equal(average.top_labels, evaluator.predict().top_labels)
    by_label = [np.take_along_axis(p.top_probabilities, p.top_labels.argsort(1), 1) for p in (right, wrong, average)]
    np.testing.assert_allclose(by_label[2], (by_label[0] + by_label[1]) / 2, rtol=1e-6)
    assert evaluator.score(right, "others")[2]["top1"].value == 6 / 7
