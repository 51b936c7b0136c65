import mindspore
import numpy as np
import pandas as pd
import pytest
from mindspore import Tensor, nn

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.loader import TrainingBatches
from rp2k_lab.device.workers import ALONE, Workers
from rp2k_lab.train.build import build_batches, build_training
from rp2k_lab.train.loss_scale import DynamicScaleStep

pytestmark = pytest.mark.slow

SMALL = ("model.width_multiplier=0.125", "model.depth_multiplier=0.25")


@pytest.fixture
def training_of(compose):
    """Return training_of(*overrides): 6, 3, 1 and 0 images of four classes, two steps an epoch."""

    def build(*overrides, workers=ALONE):
        config = parse(compose(*SMALL, *overrides))
        rows = pd.DataFrame({"row": range(10), "label": np.repeat([2, 0, 1], [6, 3, 1])})
        augmentation = config.aug.build(config.size, config.dataset.mean)
        batches = TrainingBatches(
            None, rows, augmentation, config.size, 5, seed=0, num_classes=4, world_size=workers.world_size
        )
        return build_training(config, batches, workers)

    return build


@pytest.fixture
def loss_of(training_of):
    return lambda *overrides: training_of(*overrides).model._loss_fn


def at_zero(loss, logits=(0, 0, 0, 0)) -> float:
    """Return the loss of an image of class 0."""
    return float(loss(Tensor(np.array([logits], np.float32)), Tensor(np.zeros(1, np.int32))).asnumpy())


def smoothed(logits, smoothing) -> float:
    """Return the cross-entropy of an image of class 0."""
    log_p = logits - np.log(np.exp(logits).sum())
    return -(1 - smoothing) * log_p[0] - smoothing * log_p.mean()


@pytest.mark.usefixtures("graph_mode")
def test_the_loss_has_the_class_counts_of_the_training_images(loss_of):
    loss = loss_of("loss=logit_adjusted", "loss.tau=2", "loss.label_smoothing=0.3")
    adjusted = 2 * np.log(np.array([3, 1, 6, 1]) / 11)  # the empty class counts as one image
    assert at_zero(loss) == pytest.approx(smoothed(adjusted, 0.3), rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "step", "factor"),
    [
        ((), nn.TrainOneStepCell, 1.0),
        (("device.loss_scale=dynamic",), nn.TrainOneStepCell, 1.0),  # float32 needs none
        (("device.loss_scale=1024",), nn.TrainOneStepCell, 1024.0),
        (("device.precision=O2", "device.loss_scale=1024"), nn.TrainOneStepCell, 1024.0),
        (("device.precision=O3", "device.loss_scale=dynamic"), DynamicScaleStep, 1.0),
    ],
)
def test_the_step_and_the_optimizer_have_the_same_loss_scale(training_of, overrides, step, factor):
    train_network = training_of(*overrides).model.train_network
    assert type(train_network) is step
    assert train_network.sens == train_network.optimizer.loss_scale == factor


@pytest.mark.usefixtures("graph_mode")
def test_a_network_with_batch_norms_trains_under_o2(training_of):
    train = training_of("device.precision=O2", "device.loss_scale=dynamic").model.train_network
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    outputs = [train(Tensor(images), Tensor(np.arange(5, dtype=np.int32) % 4)) for _ in range(3)]
    losses = [float(loss.asnumpy()) for loss, *_ in outputs]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.usefixtures("graph_mode")
def test_cross_entropy_is_the_default(loss_of):
    loss = loss_of()
    logits = np.array([1.0, 0.0, 2.0, -1.0])
    assert at_zero(loss, logits) == pytest.approx(smoothed(logits, 0.1), rel=1e-5)


@pytest.mark.usefixtures("graph_mode")
def test_the_evaluated_average_follows_weights_and_batch_norm(training_of):
    """As timm's ModelEmaV2: running statistics are averaged like weights; counters are copied."""
    training = training_of("optimizer.ema_decay=0.75", "model.drop_path_rate=0.5")
    step = training.model.train_network
    average = {p.name: p for p in training.network.get_parameters()}
    trained = {p.name.removeprefix("trained."): p for p in training.model._network.get_parameters()}
    assert trained.keys() == average.keys()
    assert all(p.name.startswith("trained.") for p in trained.values())
    assert {id(p) for p in average.values()} <= {id(p) for p in step.get_parameters()}  # checkpoints hold them
    expected = {name: p.asnumpy().copy() for name, p in average.items()}
    for name, value in expected.items():
        np.testing.assert_array_equal(trained[name].asnumpy(), value, err_msg=name)
    rng = np.random.default_rng(0)
    for _ in range(2):
        step(Tensor(rng.integers(0, 256, (5, 32, 32, 3), np.uint8)), Tensor(rng.integers(0, 4, 5).astype(np.int32)))
        for name, p in trained.items():
            counts = p.dtype == mindspore.int32
            expected[name] = p.asnumpy().copy() if counts else 0.75 * expected[name] + 0.25 * p.asnumpy()
    for name, value in expected.items():
        np.testing.assert_allclose(average[name].asnumpy(), value, rtol=1e-5, atol=1e-7, err_msg=name)
    moved = {name for name, p in average.items() if np.abs(p.asnumpy() - trained[name].asnumpy()).max() > 1e-6}
    assert {"conv1.weight", "bn1.moving_mean", "bn1.moving_variance"} <= moved
    assert any(p.dtype == mindspore.int32 and p.asnumpy() == 2 for p in average.values())


@pytest.mark.usefixtures("graph_mode")
def test_without_an_average_the_trained_network_is_evaluated(training_of):
    training = training_of()
    assert training.network is training.model._network
    assert not any(p.name.startswith("trained.") for p in training.model.train_network.get_parameters())
    assert training.steps == 10


@pytest.mark.usefixtures("graph_mode")
def test_ranks_start_with_equal_weights_and_draw_different_masks(training_of):
    trainings = [training_of("model.drop_path_rate=0.5", workers=Workers(rank, 2)) for rank in (0, 1)]
    alone = training_of("model.drop_path_rate=0.5")
    first, second, one = (
        {name: cell.seed for name, cell in t.network.cells_and_names() if hasattr(cell, "keep")}
        for t in (*trainings, alone)
    )
    assert first == one != {}
    assert all(first[name] != second[name] for name in first)
    for one_parameter, other in zip(*(t.network.get_parameters() for t in trainings), strict=True):
        np.testing.assert_array_equal(one_parameter.asnumpy(), other.asnumpy(), err_msg=other.name)


@pytest.mark.usefixtures("graph_mode")
def test_the_learning_rate_scales_with_the_images_of_all_ranks(training_of):
    options = ("optimizer.lr_batch_size=5", "schedule.warmup_epochs=0", "optimizer.lr=0.5")
    assert training_of(*options).learning_rate[0] == pytest.approx(0.5)
    assert training_of(*options, workers=Workers(0, 2)).learning_rate[0] == pytest.approx(1.0)


def test_a_batch_too_large_for_the_ranks_is_refused(compose):
    config, rows = parse(compose("batch_size=6")), pd.DataFrame({"row": range(11), "label": 0})
    with pytest.raises(RequestError, match="train has 11 photos for 2 workers\nuse batch_size=5 or less"):
        build_batches(config, None, None, rows, Workers(0, 2))
