"""Training of the last layers: the parameters that change, and the equality of training on features."""

import zlib
from contextlib import contextmanager

import numpy as np
import pytest

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.mindspore_dataset import mindspore_dataset
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.evaluation.predictor import Member
from rp2k_lab.model.network import freeze_all_but_last
from rp2k_lab.task import fixres
from rp2k_lab.train.build import build_batches, build_images, build_model, build_network, preprocessing
from rp2k_lab.train.head_tuning import build_head_tuning

# The images of the tests of tasks.  In a last stage of one block, the shortcut's norm follows the block's last norm.
TINY = (
    "dataset.classes=8",
    "dataset.train_images=300",
    "dataset.val_images=60",
    "dataset.test_images=80",
    "dataset.min_train_images=5",
    "epochs=1",
    "model.width_multiplier=0.125",
    "model.depth_multiplier=0.25",
)

pytestmark = pytest.mark.usefixtures("graph_mode")


def checksums(cell) -> dict[str, int]:
    return {p.name: zlib.crc32(p.asnumpy().tobytes()) for p in cell.get_parameters()}


def moved(before: dict[str, int], cell) -> set[str]:
    after = checksums(cell)
    assert after.keys() == before.keys()
    return {name for name in before if after[name] != before[name]}


@pytest.fixture
def tuning(compose, tmp_path):
    """Return tuning(*overrides): (configuration, index, head tuning) of a small network with initial weights."""

    @contextmanager
    def tuning(*overrides):
        config = fixres.without_augmentation(parse(compose("task=fixres", "runs=x", *TINY, *overrides)))
        index = build_index(config.dataset)
        member = Member("m", build_network(config, len(index.classes)), preprocessing(config))
        with build_head_tuning(config, index, member, ["val"], tmp_path, lambda: None) as tuning:
            yield config, index, tuning

    return tuning


def train(model, batches):
    model.train(1, mindspore_dataset(batches), dataset_sink_mode=False)


def test_only_the_classifier_changes_and_as_through_the_whole_network(tuning):
    """With dropout, whose masks depend on the step, and stochastic depth, which is off in frozen layers."""
    with tuning("model.drop_rate=0.3", "model.drop_path_rate=0.3") as (config, index, tuned):
        network, before = tuned.training.network, checksums(tuned.training.network)
        tuned.prepare()
        train(tuned.training.model, tuned.training.batches)
        assert moved(before, network) == {"fc.weight", "fc.bias", "dropout.step"}
        on_features, whole = tuned.on_val.predict(), tuned.evaluators["val"].predict()
        np.testing.assert_allclose(on_features.top_probabilities, whole.top_probabilities, rtol=1e-4, atol=1e-6)

        other = build_network(config, len(index.classes))
        freeze_all_but_last(other.network, with_norm=False)
        batches = build_batches(config, index, build_images(config, index), index.split("train"))
        train(build_model(config, other, batches)[0], batches)
        assert moved(before, other) == {"fc.weight", "fc.bias", "dropout.step"}
        fc, other_fc = network.network.head.fc, other.network.head.fc
        np.testing.assert_allclose(fc.weight.asnumpy(), other_fc.weight.asnumpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(fc.bias.asnumpy(), other_fc.bias.asnumpy(), rtol=1e-4, atol=1e-6)


def test_with_the_last_norm_the_norm_and_its_statistics_change_too(tuning):
    with tuning("task.tune=classifier_bn", "model.drop_path_rate=0.3") as (_, _, tuned):
        network, before = tuned.training.network, checksums(tuned.training.network)
        train(tuned.training.model, tuned.training.batches)
        norm = {f"layer4.0.bn2.{part}" for part in ("gamma", "beta", "moving_mean", "moving_variance")}
        assert moved(before, network) == {"fc.weight", "fc.bias"} | norm
        assert tuned.on_val is tuned.evaluators["val"]


def test_a_network_without_such_a_norm_is_refused(tuning):
    refusal = (
        r"^task\.tune=classifier_bn: swin_tiny has no batch norm before its classifier\nuse task\.tune=classifier$"
    )
    with pytest.raises(RequestError, match=refusal), tuning("model=swin_tiny", "task.tune=classifier_bn"):
        pass


def test_a_batch_larger_than_train_is_refused(tuning):
    refusal = r"^batch_size=301: train has 300 photos\nuse batch_size=300 or less$"
    with pytest.raises(RequestError, match=refusal), tuning("batch_size=301"):
        pass
