"""Whether a photo's blur and exposure lose other photos of its class."""

import cv2
import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.photo_quality import measure
from rp2k_lab.analysis.photo_trial import MOST_SHOWN, lost_fractions, with_measures
from rp2k_lab.evaluation.predictor import Preprocessing

PREPROCESSING = Preprocessing((48, 32), "letterbox", 1.0)
SHARP = cv2.resize(
    np.random.default_rng(0).integers(60, 160, (60, 45, 3)).astype(np.uint8), (90, 120), interpolation=cv2.INTER_NEAREST
)


class ByBrightness:
    """A predictor that calls dark images class 1, others class 0."""

    preprocessings = (PREPROCESSING,)

    def __init__(self):
        self.batches = []

    def __call__(self, batches):
        for (images,) in batches:
            self.batches.append(images)
            dark = images.max(axis=(1, 2, 3)) < 100
            yield [], np.stack([~dark, dark], axis=1).astype(np.float32)


@pytest.mark.parametrize("brightness", [0.3, 0.43, 0.55])
@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.8])
def test_an_image_gets_the_measures(brightness, fraction):
    sharpness = fraction * measure(SHARP)["sharpness"]
    reached = measure(with_measures(SHARP, brightness, sharpness))
    assert reached["brightness"] == pytest.approx(brightness, rel=0.02)
    assert reached["sharpness"] == pytest.approx(sharpness, rel=0.1)


def test_a_blurred_image_gets_no_sharper():
    blurred = cv2.GaussianBlur(SHARP, (0, 0), 2)
    measures = measure(blurred)
    np.testing.assert_array_equal(with_measures(blurred, measures["brightness"], 9.0), blurred)


def test_its_own_measures_change_nothing():
    measures = measure(SHARP)
    np.testing.assert_array_equal(with_measures(SHARP, measures["brightness"], measures["sharpness"]), SHARP)


@pytest.fixture
def photos(tmp_path):
    """Return (root, cases): class a with a dark error, a bright error and eight recognized photos; b without any."""
    rows = []
    for name, label, images in (("a", 0, 10), ("b", 1, 2)):
        for i in range(images):
            image = SHARP // 4 if (name, i) == ("a", 0) else SHARP
            path = f"{name}{i}.png"
            cv2.imwrite(str(tmp_path / path), image)
            rows.append(
                {"path": path, "true": name, "label": label, "correct": name == "a" and i > 1, **measure(image)}
            )
    return tmp_path, pd.DataFrame(rows)


def test_the_fraction_of_lost_photos(photos):
    root, cases = photos
    predictor = ByBrightness()
    lost = lost_fractions(predictor, root, cases, 4, lambda: None)
    assert lost[:2].tolist() == [1.0, 0.0]
    assert np.isnan(lost[2:]).all()  # recognized, or of a class of which nothing is
    assert sum(map(len, predictor.batches)) == 2 * MOST_SHOWN
    assert predictor.batches[0].shape == (4, 48, 32, 3)


def test_nothing_to_try(photos):
    root, cases = photos
    assert np.isnan(lost_fractions(ByBrightness(), root, cases.assign(correct=True), 4, lambda: None)).all()


def test_a_signal_stops_it(photos):
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        lost_fractions(ByBrightness(), *photos, 4, stop)
