"""Precomputed features: storage, computation and order."""

import os

import numpy as np
import pandas as pd
import pytest
from mindspore import Tensor

from rp2k_lab.aug.augmentation import Augmentation
from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.loader import TrainingBatches
from rp2k_lab.dataset.mindspore_dataset import mindspore_dataset
from rp2k_lab.model import Front, Rest, WithPreprocessing, create_model
from rp2k_lab.train import features
from rp2k_lab.train.features import FeatureBatches, compute_features, feature_array


def test_small_arrays_are_in_memory(tmp_path):
    with feature_array(5, 3, tmp_path) as array:
        assert not isinstance(array, np.memmap)
        assert (array.shape, array.dtype) == ((5, 3), np.float32)


def test_large_arrays_are_in_a_temporary_file_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "MAX_BYTES_IN_MEMORY", 59)
    with feature_array(5, 3, tmp_path) as array:
        assert isinstance(array, np.memmap)
        array[:] = np.arange(15).reshape(5, 3)
        np.testing.assert_array_equal(array[[4, 0]], [[12, 13, 14], [0, 1, 2]])
        assert array.dtype == np.float32
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_before_computing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "MAX_BYTES_IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        pytest.raises(DataError, match=r"no disk space for the features of 340000 photos, 5\.6 GB \(No space") as error,
        feature_array(340_000, 4096, tmp_path),
    ):
        pass
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("head_width", [None, 12])
def test_the_head_on_features_equals_the_network(head_width):
    net = create_model("resnet18", 3, head_width=head_width, width_multiplier=0.125, depth_multiplier=0.25)
    network = WithPreprocessing(net, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)).set_train(False)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 40, 3), np.uint8)
    target, checks = np.full((5, head_width or 64), np.nan, np.float32), []
    compute_features(Front(network), [[images[:2]], [images[2:4]], [images[4:]]], 2, target, lambda: checks.append(1))
    assert len(checks) == 3
    logits = Rest(network)(Tensor(target)).asnumpy()
    np.testing.assert_allclose(logits, network(Tensor(images)).asnumpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampler", ["uniform", "class_balanced"])
def test_features_are_in_the_order_of_their_images(sampler):
    labels = np.array([0, 1, 0, 2, 0, 1, 0], np.int32)
    image_batches = TrainingBatches(
        lambda row: np.full((8, 8, 3), row, np.uint8),
        pd.DataFrame({"row": range(7), "label": labels}),
        Augmentation(None, (), None),
        (8, 8),
        2,
        5,
        3,
        sampler=sampler,
    )
    image_batches.source.size = (8, 8)
    numbers = np.arange(7, dtype=np.float32)[:, None]
    batches = FeatureBatches([numbers], [f"{i}.jpg" for i in range(len(numbers))], labels, 2, 5, 3, sampler=sampler)
    assert batches.steps_per_epoch == image_batches.steps_per_epoch == 3
    for _ in range(2):
        for (images, image_labels), (rows, row_labels) in zip(image_batches, batches, strict=True):
            np.testing.assert_array_equal(rows[:, 0], images[:, 0, 0, 0])
            np.testing.assert_array_equal(row_labels, image_labels)


def test_features_reach_the_device_as_float32_with_int32_labels():
    batches = FeatureBatches([np.ones((4, 3), np.float32)], list("abcd"), np.arange(4, dtype=np.int32), 2, 0, 4)
    ((values, labels), *more) = mindspore_dataset(batches).create_tuple_iterator(num_epochs=1, output_numpy=True)
    assert (values.dtype, values.shape, labels.dtype, len(more)) == (np.float32, (2, 3), np.int32, 1)
