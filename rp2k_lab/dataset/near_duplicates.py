"""Find copies among images: the same bytes, or the same image cropped, exposed or compressed differently.

Exact copies have the same SHA-256.  Near copies are found in three steps, none of which looks at all pairs:

1. Hash each image perceptually (package ImageHash: pHash and both difference hashes), whole and without its border, so
   that a copy that lost a few percent of a side still matches its original in one of the two forms.
2. Collect candidates: pairs that share a 21-bit band of one hash and have about the same height/width.  Keep those
   whose three hashes and 8×8 colors are close.
3. Decode each candidate pair, align it (affine, enhanced correlation: Evangelidis & Psarakis, TPAMI 30(10), 2008, in
   OpenCV) and compare it pixel by pixel.  Hashes alone would take two images of one product for copies; background,
   light and the small differences of look-alike labels tell those apart.

The thresholds were chosen on shelf sets of seeds 101 and 102 and are measured on others (tests/dataset).
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rp2k_lab.core.files import sha256_of
from rp2k_lab.core.progress import progress
from rp2k_lab.dataset.crops import file_of
from rp2k_lab.dataset.image import read_shrunk, stretch

_SIDE = 64  # of the thumbnails that are hashed and compared, whatever the image's shape
_CROPS = (0.0, 0.025)  # fraction cropped from each side before hashing
_HASHES = (imagehash.phash, imagehash.dhash, imagehash.dhash_vertical)
_BANDS = ((0, 21), (21, 42), (42, 64))  # bits of a 64-bit hash
_MOST_NEIGHBORS = 2000  # images compared with one in a band: bounds the work where thousands hash alike
# Of the three hashes together (192 bits); planted copies differ in at most 20, as do 2 of 1000 other pairs.
_MOST_BITS = 28
_MOST_COLOR_DIFFERENCE = 20.0  # root mean square of the 8×8 colors, 0 to 255, after matching the exposure
_MOST_LOG_RATIO = 0.1  # of height/width: a copy may have lost some of one side
_ASPECT_TOLERANCE = 0.03  # in log(height/width): one or two pixels of rounding in a small image
# Limits of an aligned pair.
_GAIN = (0.84, 1.19)  # exposure
_MOST_SCALE, _MOST_SHEAR = 0.1, 0.03
_LEAST_OVERLAP = 0.8
_MOST_RESIDUAL, _MOST_LOCAL_RESIDUAL = 0.10, 0.36  # in standard deviations of the image; overall and per 9×9 pixels
_CONTRAST_FLOOR = 8.0  # gray levels of noise in even a flat image
_CLIPPED = 248  # gray levels that exposure may have clipped


def find_copies(root: Path, images: pd.DataFrame, num_threads: int) -> pd.DataFrame:
    """Return the images that have a copy, one row each, ordered by group and path.

    Args:
        root: the folder that `path` is relative to.
        images: columns path, bytes, width, height of readable images.

    Returns:
        Columns group (int64, from 0; transitive: a copy of a copy is in the same group), content (int64, equal for the
        same bytes) and difference (float64, residual to the closest other image of the group in standard deviations of
        the image, 0 for the same bytes), with the index labels of `images`.
    """
    if len(images) < 2:
        return pd.DataFrame({"group": [], "content": [], "difference": []}, images.index[:0]).astype(
            {"group": "int64", "content": "int64"}
        )
    content = _contents(root, images, num_threads)
    _, first = np.unique(content, return_index=True)  # an image for each content
    paths = [root / path for path in images["path"].iloc[first]]
    ratio = np.log(images["height"].to_numpy(float) / np.maximum(1, images["width"].to_numpy(float)))[first]
    hashes, colors = _signatures(paths, num_threads)
    pairs = _candidates(hashes, colors, ratio)
    residual = _residuals(paths, pairs, ratio, num_threads)
    pairs, residual = pairs[np.isfinite(residual)], residual[np.isfinite(residual)]
    edges = (np.ones(len(pairs)), tuple(pairs.T))
    group = connected_components(coo_array(edges, shape=(len(paths),) * 2), directed=False)[1][content]
    closest = np.full(len(paths), np.inf)
    for side in pairs.T:
        np.minimum.at(closest, side, residual)
    copies = pd.DataFrame({"group": group, "content": content, "difference": closest[content]}, index=images.index)
    copies.loc[copies.groupby("content")["content"].transform("size") > 1, "difference"] = 0.0
    copies = copies.assign(path=images["path"])[copies.groupby("group")["group"].transform("size") > 1]
    copies = copies.assign(group=pd.factorize(copies["group"])[0])
    return copies.sort_values(["group", "path"])[["group", "content", "difference"]]


def _contents(root: Path, images: pd.DataFrame, num_threads: int) -> np.ndarray:
    """Return a number for each distinct content, int64 (images,).  Only files of equal size are read, each once.

    Crops have the same content if their files and their boxes are the same.
    """
    files, boxes = zip(*(file_of(root / path) for path in images["path"]), strict=True)
    number, unique = pd.factorize(np.array(files, object))
    sizes = images["bytes"].to_numpy()[np.unique(number, return_index=True)[1]]
    key = sizes.astype(str).astype(object)
    shared = np.flatnonzero(pd.Series(sizes).duplicated(keep=False).to_numpy())
    paths = [Path(unique[i]) for i in shared.tolist()]
    key[shared] = list(_in_threads(sha256_of, paths, num_threads, "hashing the files of photos"))
    return pd.factorize(np.array([f"{key[i]} {box}" for i, box in zip(number, boxes, strict=True)], object))[0]


def _signatures(paths: list[Path], num_threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes uint64 (images, crops, 3) and colors uint8 (images, crops, 192)."""
    hashes = np.empty((len(paths), len(_CROPS), len(_HASHES)), np.uint64)
    colors = np.empty((len(paths), len(_CROPS), 192), np.uint8)
    for i, (bits, color) in enumerate(_in_threads(_signature, paths, num_threads, "hashing the content of photos")):
        hashes[i], colors[i] = bits, color
    return hashes, colors


def _signature(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = _decode_small(path)
    height, width = image.shape[:2]
    hashes, colors = [], []
    for fraction in _CROPS:
        top, left = round(height * fraction), round(width * fraction)
        thumbnail = stretch(image[top : height - top, left : width - left], (_SIDE, _SIDE))
        gray = Image.fromarray(cv2.cvtColor(thumbnail, cv2.COLOR_BGR2GRAY))
        bits = np.array([hash_of(gray).hash.ravel() for hash_of in _HASHES])
        hashes.append(np.packbits(bits, axis=1).view(np.uint64).ravel())
        colors.append(stretch(thumbnail, (8, 8)).ravel())
    return np.array(hashes), np.array(colors)


def _decode_small(path: Path) -> np.ndarray:
    """Return uint8 BGR of at least 128 pixels on the shorter side, where the image has them."""
    return cv2.cvtColor(read_shrunk(path, 128), cv2.COLOR_RGB2BGR)


def _candidates(hashes: np.ndarray, colors: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Return pairs (int64, pairs × 2, first < second) that agree in a band, in shape, in all hashes and in color."""
    image = np.repeat(np.arange(len(hashes)), len(_CROPS))
    flat = hashes.reshape(-1, len(_HASHES))
    flat_colors, flat_ratio = colors.reshape(len(flat), -1), ratio[image]
    pairs = [np.empty((0, 2), np.int64)]
    bands = [(which, *band) for which in range(len(_HASHES)) for band in _BANDS]
    for which, low, high in progress(bands, len(bands), "searching copies, bands"):
        key = (flat[:, which] >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.lexsort((flat_ratio, key))
        for left, right in _neighbors(key[order], flat_ratio[order]):
            a, b = order[left], order[right]
            close = (image[a] != image[b]) & (np.bitwise_count(flat[a] ^ flat[b]).sum(1, dtype=int) <= _MOST_BITS)
            a, b = a[close], b[close]
            similar = _color_difference(flat_colors[a], flat_colors[b]) <= _MOST_COLOR_DIFFERENCE
            pairs.append(np.sort(np.c_[image[a[similar]], image[b[similar]]], axis=1))
        pairs = [np.unique(np.concatenate(pairs), axis=0)]
    return pairs[0]


def _neighbors(key: np.ndarray, ratio: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions of entry pairs with equal keys and close ratios, first those one apart, then two, …

    The entries are sorted by key and ratio.
    """
    left = np.arange(len(key))
    for distance in range(1, _MOST_NEIGHBORS):
        left = left[left + distance < len(key)]
        right = left + distance
        near = (key[left] == key[right]) & (ratio[right] - ratio[left] <= _MOST_LOG_RATIO)
        left = left[near]  # sorted: once too far, always too far
        if not len(left):
            return
        yield left, left + distance


def _color_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the root mean square difference, float32 (rows,), of uint8 (rows, values) after the best common gain."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    gain = (a * b).sum(1) / np.maximum(1, (a * a).sum(1))
    return np.sqrt(((b - gain[:, None] * a) ** 2).mean(1))


def _residuals(paths: list[Path], pairs: np.ndarray, ratio: np.ndarray, num_threads: int) -> np.ndarray:
    """Return `aligned_residual` of each pair, float64 (pairs,)."""

    @lru_cache(maxsize=8192)  # 100 MB; the pairs are sorted, so the first of many is decoded once
    def thumbnail(i: int) -> np.ndarray:
        return stretch(_decode_small(paths[i]), (_SIDE, _SIDE))

    def compare(pair: tuple[int, int]) -> float:
        return aligned_residual(thumbnail(pair[0]), thumbnail(pair[1]), ratio[pair[1]] - ratio[pair[0]])

    return np.array(list(_in_threads(compare, pairs.tolist(), num_threads, "comparing pairs of photos")), float)


def aligned_residual(a: np.ndarray, b: np.ndarray, log_ratio: float = 0.0) -> float:
    """Return the difference of two thumbnails (uint8 BGR, 64 × 64) after aligning shift, scale and exposure.

    In standard deviations of the image; inf where no small shift, scale and exposure make copies of them, or where
    the images' shapes, which differ by `log_ratio` in log(height/width), fit neither a crop nor a crop scaled back to
    the original's shape.
    """
    a, b = (cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1) for image in (a, b))
    identity = np.eye(2, 3, dtype=np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    try:
        no_mask: Any = None  # OpenCV's stub lacks it
        _, warp = cv2.findTransformECC(a.mean(2), b.mean(2), identity, cv2.MOTION_AFFINE, criteria, no_mask, 1)
    except cv2.error:  # it diverged, or an image is flat
        warp = identity
    scale, shear = abs(np.diag(warp[:, :2]) - 1).max(), abs(warp[0, 1]) + abs(warp[1, 0])
    aspect = np.log(max(1e-3, warp[1, 1]) / max(1e-3, warp[0, 0])) + log_ratio  # 0: the pixels kept their shape
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(np.ones((_SIDE, _SIDE), np.float32), warp, (_SIDE, _SIDE), flags=flags) > 0.99
    if scale > _MOST_SCALE or shear > _MOST_SHEAR or inside.mean() < _LEAST_OVERLAP:
        return np.inf
    if min(abs(aspect), abs(log_ratio)) > _ASPECT_TOLERANCE:
        return np.inf
    b = cv2.warpAffine(b, warp, (_SIDE, _SIDE), flags=flags)
    clipped = (np.maximum(a, b) >= _CLIPPED) & (np.minimum(a, b) >= _CLIPPED / _GAIN[1])
    measured = inside[..., None] & ~clipped
    energy = (b * b)[measured].sum()
    gain = (a * b)[measured].sum() / energy if energy > 0 else 1.0  # black, or white all over
    if not _GAIN[0] < gain < _GAIN[1]:
        return np.inf
    # The brighter of the two may be clipped at white.
    difference = a - np.minimum(255, gain * b) if gain >= 1 else np.minimum(255, a / gain) - b
    squares = np.where(measured, difference, 0) ** 2
    deviation = a[inside].std(0).mean() + _CONTRAST_FLOOR
    residual = float(np.sqrt(squares[inside].mean()) / deviation)
    local = np.sqrt(max(0.0, cv2.boxFilter(squares.mean(2), -1, (9, 9)).max())) / deviation
    return residual if residual <= _MOST_RESIDUAL and local <= _MOST_LOCAL_RESIDUAL else np.inf


def _in_threads(make: Callable, items: Iterable, num_threads: int, what: str) -> Iterator:
    """Yield make(item) in order, and show the progress; at most a chunk of results waits."""
    cv2.setNumThreads(1)
    items, chunk = list(items), 4096
    with ThreadPoolExecutor(num_threads) as pool:
        chunks = (pool.map(make, items[start : start + chunk]) for start in range(0, len(items), chunk))
        yield from progress(itertools.chain.from_iterable(chunks), len(items), what)
