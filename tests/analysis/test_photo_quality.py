"""Measures of an image's pixels."""

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rp2k_lab.analysis.photo_quality import (
    MEASURES,
    TYPICAL_SAMPLE,
    class_ranks,
    measure,
    measure_images,
    measure_sample,
    typical_measures,
)
from rp2k_lab.core.errors import DataError


def flat(value: int) -> np.ndarray:
    return np.full((60, 30, 3), value, np.uint8)


def noisy(height=300, width=200) -> np.ndarray:
    """Return random gray blocks of 8 pixels."""
    blocks = np.random.default_rng(0).integers(40, 200, (-(-height // 8), -(-width // 8)), np.uint8)
    return np.repeat(np.kron(blocks, np.ones((8, 8), np.uint8))[:height, :width, None], 3, axis=2)


@pytest.mark.parametrize("value", [0, 51, 255])
def test_uniform_gray_has_only_brightness(value):
    result = measure(flat(value))
    assert result["brightness"] == pytest.approx(value / 255, abs=1e-6)
    assert (result["contrast"], result["sharpness"]) == (pytest.approx(0, abs=1e-6), 0)
    assert result["glare"] == (value == 255)


def test_brightness_is_bt601_luma():
    red = np.zeros((10, 10, 3), np.uint8)
    red[..., 0] = 255
    assert measure(red)["brightness"] == pytest.approx(0.299, abs=0.002)


def test_contrast_is_the_standard_deviation_of_luma():
    halves = np.zeros((128, 128, 3), np.uint8)
    halves[:, 64:] = 204
    assert measure(halves)["contrast"] == pytest.approx(0.4, abs=1e-6)


def test_glare_counts_pixels_clipped_in_every_channel():
    image = np.full((128, 128, 3), 100, np.uint8)
    image[:32] = 252
    image[32:64, :, :2] = 255  # yellow is a color
    assert measure(image)["glare"] == 0.25


def test_blur_lowers_sharpness_and_keeps_brightness():
    sharp = measure(noisy())
    result = [measure(cv2.GaussianBlur(noisy(), (0, 0), sigma)) for sigma in (2, 4, 8)]
    values = [sharp["sharpness"], *(f["sharpness"] for f in result)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] / 10
    assert all(f["brightness"] == pytest.approx(sharp["brightness"], abs=0.01) for f in result)


def test_sharpness_ignores_exposure_and_resolution():
    image = noisy(512, 512)
    sharpness = measure(image)["sharpness"]
    assert measure((image * 0.3).astype(np.uint8))["sharpness"] == pytest.approx(sharpness, rel=0.02)
    larger = cv2.resize(image, (1536, 1536), interpolation=cv2.INTER_CUBIC)
    assert measure(larger)["sharpness"] == pytest.approx(sharpness, rel=0.1)


def test_files_are_measured_in_order(tmp_path, write_photo):
    for name, value in (("b.png", 51), ("a.png", 204)):
        Image.fromarray(flat(value)).save(tmp_path / name)
    checks = []
    result = measure_images(tmp_path, ["b.png", "a.png"], 2, lambda: checks.append(1))
    assert tuple(result.columns) == MEASURES
    assert (result.dtypes == np.float32).all()
    assert result["brightness"].tolist() == pytest.approx([0.2, 0.8])
    assert len(checks) == 2


def test_missing_file_raises(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg"):
        measure_images(tmp_path, ["gone.jpg"], 1)


def test_typical_measures_are_medians_of_evenly_spaced_images(tmp_path, monkeypatch):
    from rp2k_lab.analysis import photo_quality

    paths = [f"{i}.png" for i in range(70)]
    measured = []

    def measure_paths(root, paths, num_threads, check):
        measured.extend(paths)
        return pd.DataFrame({name: [float(path.removesuffix(".png")) for path in paths] for name in MEASURES})

    monkeypatch.setattr(photo_quality, "measure_images", measure_paths)
    train = pd.DataFrame({"path": paths, "class": ["many"] * 60 + ["few"] * 10, "height": 30, "width": 20})
    sample = measure_sample(tmp_path, train, 1)
    assert sample["path"].tolist() == measured
    assert set(sample["ratio"]) == {1.5}
    result = typical_measures(sample)
    assert measured == [*paths[:60:3], *paths[60:]]
    assert len(measured) == TYPICAL_SAMPLE + 10
    assert result["sharpness"].to_dict() == {"many": 28.5, "few": 64.5}


def measured(paths, **values) -> pd.DataFrame:
    table = pd.DataFrame({"path": paths, "class": "a", "ratio": 1.0, **dict.fromkeys(MEASURES, 0.5)})
    return table.assign(**values)


def test_images_are_ranked_among_the_measured_images_of_their_class():
    images = measured(["1", "2", "3"], sharpness=[0.1, 0.2, 0.2], **{"class": ["a", "a", "b"]})
    sample = measured(["2", "4", "5", "6"], sharpness=[0.2, 0.2, 0.3, 9.0], **{"class": ["a", "a", "a", "c"]})
    ranks = class_ranks(images, sample)  # a has 1, 2, 4 and 5; b has 3 alone
    assert ranks["class_measured"].tolist() == [3, 3, 0]
    np.testing.assert_allclose(ranks["sharpness_above"], [1, 1 / 3, np.nan])
    np.testing.assert_allclose(ranks["sharpness_below"], [0, 1 / 3, np.nan])  # equal values are neither
    assert ranks["glare_above"].tolist()[:2] == ranks["glare_below"].tolist()[:2] == [0, 0]
    assert set(ranks) == {"class_measured", *(f"{m}_{s}" for m in (*MEASURES, "ratio") for s in ("below", "above"))}
