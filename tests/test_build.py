import numpy as np
import pandas as pd
import pytest

from rp2k_lab.aug import build_augmentation
from rp2k_lab.build import build_training
from rp2k_lab.config import parse
from rp2k_lab.dataset.batches import TrainingBatches
from rp2k_lab.loss import CrossEntropy, LogitAdjusted

SMALL = ("model.width_multiplier=0.125", "model.depth_multiplier=0.25")


@pytest.fixture
def loss_of(compose):
    """loss_of(*overrides): the loss of a training on 6, 3 and 1 photos of three classes, and none of a fourth."""

    def build(*overrides):
        config = parse(compose(*SMALL, *overrides))
        rows = pd.DataFrame({"row": range(10), "label": np.repeat([2, 0, 1], [6, 3, 1])})
        augmentation = build_augmentation(config.aug, config.size, config.dataset.mean)
        batches = TrainingBatches(None, rows, augmentation, config.size, 5, seed=0, num_classes=4)
        return build_training(config, batches).model._loss_fn

    return build


@pytest.mark.usefixtures("graph_mode")
def test_the_photos_that_a_training_draws_from_reach_its_loss(loss_of):
    loss = loss_of("loss=logit_adjusted", "loss.tau=2", "loss.label_smoothing=0.3")
    assert isinstance(loss, LogitAdjusted)
    assert loss.label_smoothing == 0.3
    expected = 2 * np.log(np.array([3, 1, 6, 1]) / 11)  # the fourth class counts as one photo
    np.testing.assert_allclose(loss.adjustment.asnumpy(), expected, rtol=1e-6)


@pytest.mark.usefixtures("graph_mode")
def test_cross_entropy_is_the_default(loss_of):
    loss = loss_of()
    assert isinstance(loss, CrossEntropy)
    assert loss.label_smoothing == 0.1
