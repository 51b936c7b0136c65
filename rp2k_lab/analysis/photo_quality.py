"""What a photo's pixels say about how it was taken.  A measure judges no photo: `causes` does, against thresholds."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from rp2k_lab.dataset.image import fit, read_shrunk

MEASURES = ("brightness", "contrast", "sharpness", "glare")
# All is measured with the photo scaled into this square: a photo of many pixels is else smooth from one to the next,
# however sharp it is.
SIDE = 128
# Training photos a class whose median says what is usual: enough for a median, and RP2K's 2388 classes take no longer
# than its test split.
USUAL_OF = 20
# From here on a channel of 8 bits counts as clipped: JPEG moves a white by a few steps.
_CLIPPED = 250


def measure(image: np.ndarray) -> dict[str, float]:
    """The measures of one photo.

    Args:
        image: uint8 RGB (height, width, 3), any size.

    Returns:
        brightness: mean luma (ITU-R BT.601), 0 to 1.
        contrast: its standard deviation (RMS contrast: Peli, JOSA A 7, 1990), 0 to 0.5.
        sharpness: variance of the luma's Laplacian (Pech-Pacheco et al., ICPR 2000) over the variance of the luma, so
            that neither exposure nor a pale label counts as blur; 0 or more, about 0.1 for a blurred photo, 1 for a
            sharp one; 0 for a photo of one color.
        glare: share of the pixels whose three channels are all clipped, 0 to 1.
    """
    small = fit(image, (SIDE, SIDE))
    luma = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    variance = float(luma.var(dtype=np.float64))
    edges = float(cv2.Laplacian(luma, cv2.CV_32F).var(dtype=np.float64))
    return {
        "brightness": float(luma.mean(dtype=np.float64)),
        "contrast": variance**0.5,
        "sharpness": edges / variance if variance > 1e-6 else 0.0,  # less is the rounding of one gray
        "glare": float((small.min(axis=2) >= _CLIPPED).mean()),
    }


def measure_photos(
    root: Path, paths: Sequence[str], workers: int | None, check: Callable[[], None] = lambda: None
) -> pd.DataFrame:
    """`measure` of each file, a row a path, float32 columns MEASURES.

    Args:
        root: what `paths` are relative to.
        workers: threads; None: one a core.
        check: called between photos; raises to stop (a signal).

    Raises:
        DataError: a photo that cannot be read.
    """
    found = []
    with ThreadPoolExecutor(workers, thread_name_prefix="measures") as pool:
        for measures in pool.map(lambda path: measure(read_shrunk(root / path, SIDE)), paths):
            check()
            found.append(measures)
    return pd.DataFrame(found, columns=list(MEASURES), dtype=np.float32)


def usual_measures(
    root: Path, train: pd.DataFrame, workers: int | None, check: Callable[[], None] = lambda: None
) -> pd.DataFrame:
    """What each class's training photos measure: the medians of at most USUAL_OF of them, evenly spaced in `train`.

    A brown bottle is no dark photo.  On the default shelf's val, 485 photos without `others`, |log brightness| against
    the class finds the wrongly exposed ones with an area under the ROC curve of 0.98 (against one brightness for all
    0.96), sharpness the blurred ones with 0.95 (0.92).  Glare does not find the reflections (0.50): they are lighter
    than what is below, but seldom white, and many labels are white.

    Args:
        train: columns path, class.

    Returns:
        Indexed by class, float32 columns MEASURES.
    """
    place, size = train.groupby("class").cumcount(), train.groupby("class")["path"].transform("size")
    chosen = train[(place * USUAL_OF) % size < USUAL_OF]
    measures = measure_photos(root, chosen["path"].tolist(), workers, check)
    return measures.groupby(chosen["class"].to_numpy(object)).median()
