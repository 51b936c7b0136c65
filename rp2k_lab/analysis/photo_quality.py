"""Brightness, contrast, sharpness and glare of images; `causes` compares them with thresholds."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from rp2k_lab.core.progress import progress
from rp2k_lab.dataset.image import fit, read_shrunk

MEASURES = ("brightness", "contrast", "sharpness", "glare")
# Images are scaled into this square before measuring: at full size, many pixels make a sharp image look smooth.
SIDE = 128
# Training images of a class behind its median: RP2K's 2388 classes take no longer than its test split.
TYPICAL_SAMPLE = 20
# Smallest 8-bit value that counts as clipped: JPEG changes white by a few steps.
_CLIPPED = 250


def measure(image: np.ndarray) -> dict[str, float]:
    """Return the measures of one image.

    Args:
        image: uint8 RGB (height, width, 3), any size.

    Returns:
        brightness: mean luma (ITU-R BT.601), 0 to 1.
        contrast: standard deviation of the luma (RMS contrast: Peli, JOSA A 7, 1990), 0 to 0.5.
        sharpness: variance of the luma's Laplacian (Pech-Pacheco et al., ICPR 2000) / variance of the luma, so that
            neither exposure nor a pale label counts as blur; 0 or more, about 0.1 blurred, 1 sharp, 0 for one color.
        glare: fraction of pixels with all three channels clipped, 0 to 1.
    """
    small = fit(image, (SIDE, SIDE))
    luma = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    variance = float(luma.var(dtype=np.float64))
    edges = float(cv2.Laplacian(luma, cv2.CV_32F).var(dtype=np.float64))
    return {
        "brightness": float(luma.mean(dtype=np.float64)),
        "contrast": variance**0.5,
        "sharpness": edges / variance if variance > 1e-6 else 0.0,  # below: rounding of a uniform gray
        "glare": float((small.min(axis=2) >= _CLIPPED).mean()),
    }


def measure_images(
    root: Path, paths: Sequence[str], num_threads: int | None, check: Callable[[], None] = lambda: None
) -> pd.DataFrame:
    """Return the measures of files, one row for each path, float32 columns MEASURES.

    Args:
        root: folder of `paths`.
        num_threads: None: one for each core.
        check: called between images; raises to stop (a signal).

    Raises:
        DataError: an image cannot be read.
    """
    rows = []
    with ThreadPoolExecutor(num_threads, thread_name_prefix="measures") as pool:
        parts = pool.map(lambda path: measure(read_shrunk(root / path, SIDE)), paths)
        for measures in progress(parts, len(paths), "measuring sharpness and light of photos"):
            check()
            rows.append(measures)
    return pd.DataFrame(rows, columns=list(MEASURES), dtype=np.float32)


def measure_sample(
    root: Path, train: pd.DataFrame, num_threads: int | None, check: Callable[[], None] = lambda: None
) -> pd.DataFrame:
    """Return the measures of at most TYPICAL_SAMPLE training images a class, evenly spaced in `train`.

    Args:
        train: columns path, class, height, width.

    Returns:
        Columns path, class, ratio (height / width), and float32 columns MEASURES.
    """
    position, size = train.groupby("class").cumcount(), train.groupby("class")["path"].transform("size")
    chosen = train[(position * TYPICAL_SAMPLE) % size < TYPICAL_SAMPLE].reset_index(drop=True)
    measures = measure_images(root, chosen["path"].tolist(), num_threads, check)
    ratio = (chosen["height"] / chosen["width"]).astype(np.float32)
    return pd.concat([chosen[["path", "class"]], ratio.rename("ratio"), measures], axis=1)


def typical_measures(sample: pd.DataFrame) -> pd.DataFrame:
    """Return each class's median measures.

    Images are judged against their class, because a brown bottle is not a dark image.  Areas under the ROC curve on the
    default shelf's val (485 images without `others`), with a common reference in brackets: wrong exposure by |log
    brightness| 0.98 (0.96), blur by sharpness 0.95 (0.92), reflections by glare 0.50: they are seldom white, and many
    labels are white.

    Args:
        sample: from `measure_sample`.

    Returns:
        Indexed by class, float32 columns MEASURES.
    """
    return sample.groupby(sample["class"].to_numpy(object))[list(MEASURES)].median()


def class_ranks(images: pd.DataFrame, sample: pd.DataFrame) -> pd.DataFrame:
    """Return how unusual each image is among the measured images of its class: these images and the sample.

    Args:
        images: columns path, class, ratio and MEASURES.
        sample: from `measure_sample`; its images that are in `images`, too, count once.

    Returns:
        In the order of `images`: class_measured (int, the other measured images of the class) and, for each measure
        and the ratio, <measure>_below and <measure>_above (float32, the fraction of them with a smaller and a larger
        value; NaN if there is none).
    """
    measures = [*MEASURES, "ratio"]
    others = sample[~sample["path"].isin(set(images["path"]))]
    pool = pd.concat([images[["class", *measures]], others[["class", *measures]]], ignore_index=True)
    by_class = pool.groupby("class")
    size = by_class["class"].transform("size")
    ranks = {"class_measured": size - 1}
    for name in measures:
        lowest, highest = (by_class[name].rank(method=method) for method in ("min", "max"))
        count = (size - 1).where(size > 1)
        ranks |= {f"{name}_below": (lowest - 1) / count, f"{name}_above": (size - highest) / count}
    table = pd.DataFrame(ranks)[: len(images)].set_axis(images.index)
    return table.astype(dict.fromkeys(table.columns[1:], np.float32))
