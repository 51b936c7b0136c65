"""Is an error the photo's fault?  Show the network other photos of the class with this photo's blur and exposure.

A photo that is dark or blurred need not be unrecognizable.  So photos of its class that the network recognizes get the
brightness and the sharpness that were measured on it; the fraction that is then lost says what these two cost.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from rp2k_lab.analysis.photo_quality import SIDE, measure
from rp2k_lab.core.progress import progress
from rp2k_lab.dataset.image import letterbox, pad_to_center, read_shrunk, stretch
from rp2k_lab.evaluation.predictor import Predictor, Preprocessing

MOST_SHOWN = 6  # photos of its class that stand for an error
_MOST_IMAGES = 20_000  # of all errors together: a split with many errors has fewer for each
_STEPS = 8  # of the search for gain and blur
_LEAST_BLUR, _MOST_BLUR = 0.2, 12.0  # standard deviation [pixels of a photo of SIDE]


def lost_fractions(
    predictor: Predictor, root: Path, cases: pd.DataFrame, batch_size: int, check: Callable[[], None]
) -> np.ndarray:
    """Return for each case the fraction of recognized photos of its class that its blur and exposure lose.

    Args:
        predictor: of one network.
        root: folder of the paths.
        cases: columns path, true, correct, brightness, sharpness (`photo_quality.measure`) and label (int, of `true`).
        check: called between batches; raises to stop (signals).

    Returns:
        float32 (cases,), NaN for recognized photos and where no other photo of the class is recognized.
    """
    shown = _stand_ins(cases)
    lost = np.full(len(cases), np.nan, np.float32)
    if not len(shown):
        return lost
    labels, batches = cases["label"].to_numpy(), _batches(predictor.preprocessings[0], root, cases, shown, batch_size)
    answers = []
    named = progress(batches, len(shown), "trying blur and exposure of errors on other photos", lambda b: len(b[0]))
    for _, average in predictor(named):
        check()
        answers.append(average.argmax(axis=1))
    is_lost = np.concatenate(answers) != labels[shown[:, 0]]
    errors, place = np.unique(shown[:, 0], return_inverse=True)
    lost[errors] = np.bincount(place, is_lost) / np.bincount(place)
    return lost


def _stand_ins(cases: pd.DataFrame) -> np.ndarray:
    """Return pairs (error, recognized photo of its class), positions in `cases`, int (pairs, 2)."""
    correct, true = cases["correct"].to_numpy(bool), cases["true"].to_numpy(object)
    errors = np.flatnonzero(~correct)
    most = int(np.clip(_MOST_IMAGES // max(1, len(errors)), 1, MOST_SHOWN))
    right = np.flatnonzero(correct)
    recognized = pd.Series(right).groupby(true[right]).indices  # class to positions in `right`
    pairs = []
    for error in errors.tolist():
        others = right[recognized.get(true[error], np.zeros(0, int))]
        chosen = others[np.linspace(0, len(others) - 1, min(most, len(others))).round().astype(int)]
        pairs += [(error, other) for other in chosen.tolist()]
    return np.array(pairs, int).reshape(-1, 2)


def _batches(
    preprocessing: Preprocessing, root: Path, cases: pd.DataFrame, shown: np.ndarray, batch_size: int
) -> Iterator[list[np.ndarray]]:
    paths = cases["path"].tolist()
    targets = cases[["brightness", "sharpness"]].to_numpy(float)
    place = letterbox if preprocessing.resize == "letterbox" else stretch

    def image(pair: np.ndarray) -> np.ndarray:
        error, other = pair.tolist()
        photo = read_shrunk(root / paths[other], max(SIDE, *preprocessing.resized))
        degraded = with_measures(photo, *targets[error])
        return pad_to_center(place(degraded, preprocessing.resized), preprocessing.resized, preprocessing.size)

    with ThreadPoolExecutor(thread_name_prefix="trial") as pool:
        for start in range(0, len(shown), batch_size):
            yield [np.stack(list(pool.map(image, shown[start : start + batch_size])))]


def with_measures(image: np.ndarray, brightness: float, sharpness: float) -> np.ndarray:
    """Return an image with a given brightness, and no sharper than given (`photo_quality.measure`).

    Args:
        image: uint8 RGB (height, width, 3).
    """
    blurred = _blurred(image, _blur_for(image, sharpness))
    gain, wanted = 1.0, max(brightness, 1 / 255)
    for _ in range(_STEPS):  # clipping makes the brightness less than proportional
        reached = max(measure(_exposed(blurred, gain))["brightness"], 1 / 255)
        if abs(reached / wanted - 1) < 0.01:
            break
        gain *= wanted / reached
    return _exposed(blurred, gain)


def _blur_for(image: np.ndarray, sharpness: float) -> float:
    """Return the blur that gives an image a sharpness, 0 if it is not sharper [pixels of a photo of SIDE]."""
    if measure(image)["sharpness"] <= sharpness:
        return 0.0
    low, high = _LEAST_BLUR, _MOST_BLUR
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if measure(_blurred(image, middle))["sharpness"] > sharpness else (low, middle)
    return high


def _blurred(image: np.ndarray, deviation: float) -> np.ndarray:
    pixels = deviation * max(image.shape[:2]) / SIDE
    return cv2.GaussianBlur(image, (0, 0), pixels, borderType=cv2.BORDER_REPLICATE) if deviation else image


def _exposed(image: np.ndarray, gain: float) -> np.ndarray:
    return np.clip(np.round(image.astype(np.float32) * gain), 0, 255).astype(np.uint8)
