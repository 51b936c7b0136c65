"""Training on kept outputs of frozen stages: equal to training on images, resumable, and its space is checked."""

from types import SimpleNamespace

import numpy as np
import pytest

from rp2k_lab.config.schema import parse
from rp2k_lab.dataset.mindspore_dataset import mindspore_dataset
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.evaluation.predictor import Member
from rp2k_lab.train import kept_outputs
from rp2k_lab.train.build import build_batches, build_images, build_training, preprocessing
from rp2k_lab.train.kept_outputs import build_training_on_outputs

# 70 images: two whole batches of the training, and a rest that no epoch of one view has.
FEW = (
    "dataset.classes=4",
    "dataset.train_images=70",
    "dataset.val_images=20",
    "dataset.test_images=16",
    "dataset.min_train_images=5",
    "size=32",
    "batch_size=32",
    "epochs=3",
    "optimizer.lr=0.01",
    "schedule.warmup_epochs=0",
    "model.depth_multiplier=0.25",
)
RESNET = ("model=resnet18", "model.width_multiplier=0.125", "model.freeze=stage2", "model.drop_path_rate=0.2")
LITE = ("model=efficientnet_lite0", "model.width_multiplier=0.25", "model.freeze=stage4", "model.drop_rate=0.2")
PLAIN = ("aug=none", "aug.crop=null", "aug.flip=0", "aug.color=0")
VIEWS = ("aug=randaugment", "model.freeze_views=2", "optimizer.ema_decay=0.9")

pytestmark = pytest.mark.usefixtures("graph_mode")


@pytest.fixture
def build(compose, tmp_path, monkeypatch):
    """build(*overrides): configuration, index, images and their batches of a small network."""
    monkeypatch.setattr(kept_outputs, "FEATURES", tmp_path / "features")

    def build(*overrides, step=0):
        config = parse(compose("task=train", *FEW, *overrides))
        index = build_index(config.dataset)
        images = build_images(config, index)
        batches = build_batches(config, index, images, index.split("train"), start_step=step)
        return SimpleNamespace(config=config, index=index, images=images, batches=batches)

    return build


def on_outputs(parts, step=0):
    return build_training_on_outputs(parts.config, parts.index, parts.images, parts.batches, step)


def values(cell) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in cell.get_parameters()}


def train(training, epochs):
    training.model.train(epochs, mindspore_dataset(training.batches), dataset_sink_mode=False)
    return values(training.model.train_network)


def assert_equal(some, others):
    assert some.keys() == others.keys()
    for name, value in some.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)


class Images:
    """Batches of images whose epoch e has the augmentation of epoch e mod `views`, in the order of epoch e."""

    def __init__(self, batches, views):
        self.batches, self.views = batches, views

    def __getattr__(self, name):
        return getattr(self.batches, name)

    def __iter__(self):
        """Yield an epoch; the next call yields the next one."""
        epoch = self.batches._epoch
        view, order = self.batches.order(epoch % self.views), self.batches.order(epoch)
        images = np.concatenate(list(self.batches.all_images(epoch % self.views)))
        by_row = images[np.argsort(view)]
        for n in range(self.batches.steps_per_epoch):
            rows = order[n * self.batches.batch_size : (n + 1) * self.batches.batch_size]
            yield by_row[rows], self.batches.labels[rows]
        self.batches._epoch += 1


@pytest.mark.parametrize("network", [RESNET, LITE], ids=["resnet18", "lite0"])
@pytest.mark.parametrize("more", [PLAIN, VIEWS], ids=["one view", "two views and ema"])
def test_training_on_outputs_equals_training_on_images_bit_for_bit(build, network, more, tmp_path):
    parts = build(*network, *more)
    training, kept = on_outputs(parts)
    training.prepare(lambda: None)
    views = parts.config.kept_views
    trained = train(training, 3)
    other = build_training(parts.config, Images(parts.batches, views))
    assert_equal(trained, train(other, 3))
    assert len(list((tmp_path / "features").iterdir())) == views + 1

    member = Member("m", training.network, preprocessing(parts.config))
    predictions = kept.evaluator(member, lambda: None).predict()
    whole = values(training.network)
    again, _ = on_outputs(parts)  # reads the files
    again.prepare(lambda: None)
    for kept_view, view in zip(again.batches.views, training.batches.views, strict=True):
        np.testing.assert_array_equal(kept_view, view)
    assert np.isfinite(predictions.top_probabilities).all()
    assert_equal(whole, values(training.network))
