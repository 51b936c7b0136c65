"""Features on disk: computed once, written atomically."""

import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.predictor import Preprocessing
from rp2k_lab.train.feature_cache import cached_features, features_name

PREPROCESSING = Preprocessing((32, 32), "letterbox", 1.0)


def fill(target: np.ndarray) -> None:
    target[:] = np.arange(target.size).reshape(target.shape)


def refuse(target: np.ndarray) -> None:
    raise AssertionError


def test_features_are_computed_once(tmp_path):
    file = tmp_path / "features" / "a.npy"
    first = cached_features(file, (3, 2), fill)
    again = cached_features(file, (3, 2), refuse)
    for features in (first, again):
        assert features.dtype == np.float32
        assert features.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert [f.name for f in file.parent.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("damage", [lambda data: data[:-4], lambda data: b"", lambda data: b"no array" * 20])
def test_damaged_file_is_replaced(tmp_path, caplog, damage):
    file = tmp_path / "a.npy"
    cached_features(file, (3, 2), fill)
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert cached_features(file, (3, 2), fill)[2].tolist() == [4, 5]
    assert "computed again" in caplog.text


def test_interrupted_computation_leaves_no_file(tmp_path):
    def interrupt(target: np.ndarray) -> None:
        target[0] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path / "a.npy", (3, 2), interrupt)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_reported_before_computing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"no space for features of 0\.0 GB \(No space") as error:
        cached_features(tmp_path / "a.npy", (3, 2), refuse)
    assert len(str(error.value).splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_name_depends_on_weights_images_split_and_preprocessing(tmp_path):
    def name(weights=b"w", version="v", split="val", preprocessing=PREPROCESSING) -> str:
        checkpoint = tmp_path / "a.ckpt"
        checkpoint.write_bytes(weights)
        return features_name(
            checkpoint, Index(Path(), pd.DataFrame(), [], "f", version, pd.DataFrame()), split, preprocessing
        )

    others = [
        name(weights=b"x"),
        name(version="w"),
        name(split="train"),
        name(preprocessing=Preprocessing((32, 40), "fit", 1.0)),
    ]
    assert name() == name()
    assert len({name(), *others}) == 5
