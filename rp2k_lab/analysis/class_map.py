"""A map of the classes: near each other where their mean features are, with the pairs that are confused most."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from rp2k_lab.core.text import escape_controls, shorten_middle

# t-SNE (van der Maaten and Hinton, JMLR 9, 2008) keeps three quarters of the ten nearest of 2388 classes, the first two
# principal components an eighth: tests/analysis/test_class_map.py.
_PERPLEXITY, _ITERATIONS, _COMPONENTS = 12, 300, 50
_FEWEST = 5  # classes; fewer lie where their principal components are
_WIDTH, _HEIGHT, _BORDER = 1120, 720, 24
_PAIRS, _LABELS = 80, 24
_LETTER, _LINE = 7.4, 13  # width and height of a letter of a label
ACCURACIES = ((0.25, "bad"), (0.5, "poor"), (0.75, "fair"), (1.01, "good"))  # upper bound, CSS class


def map_positions(means: np.ndarray) -> np.ndarray:
    """Return the place of each class, float32 (classes, 2), between 0 and 1; NaN for a class without training images.

    The same means give the same bits: t-SNE starts from the principal components, and its sums have one order.

    Args:
        means: float32 (classes, width), from `neighbors.class_means`.
    """
    known = np.flatnonzero(np.isfinite(means).all(axis=1))
    places = np.full((len(means), 2), np.nan, np.float32)
    if len(known):
        places[known] = _scaled(_project(means[known]))
    return places


def _project(means: np.ndarray) -> np.ndarray:
    left, sizes, _ = np.linalg.svd(means.astype(np.float64) - means.mean(axis=0), full_matrices=False)
    components = left[:, :_COMPONENTS] * sizes[:_COMPONENTS]
    # The sign of a component is the library's choice; its largest entry becomes positive.
    components *= np.where(components[np.abs(components).argmax(axis=0), np.arange(components.shape[1])] < 0, -1, 1)
    if len(means) < _FEWEST or components.shape[1] < 2:
        return np.pad(components, ((0, 0), (0, 2)))[:, :2]
    from sklearn.manifold import TSNE

    start = (components[:, :2] / max(components[:, 0].std(), 1e-12) * 1e-4).astype(np.float32)
    perplexity = min(_PERPLEXITY, (len(means) - 1) / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        projection = TSNE(2, perplexity=perplexity, init=start, max_iter=_ITERATIONS, random_state=0, n_jobs=1)
        return projection.fit_transform(components.astype(np.float32))


def _scaled(places: np.ndarray) -> np.ndarray:
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - low) / np.maximum(high - low, 1e-12)


def confusions(cases: pd.DataFrame) -> pd.DataFrame:
    """Return the most confused pairs of classes: columns first, second (in the order of names), images.

    Args:
        cases: columns true, top1, correct.
    """
    wrong = cases.loc[~cases["correct"].to_numpy(bool), ["true", "top1"]].to_numpy(object)
    pairs = pd.DataFrame([sorted(pair) for pair in wrong.tolist()], columns=["first", "second"], dtype=object)
    counts = pairs.value_counts(sort=False).rename("images").reset_index()
    order = ["images", "first", "second"]
    return counts.sort_values(order, ascending=[False, True, True], ignore_index=True).head(_PAIRS)


def class_map_chart(classes: pd.DataFrame, cases: pd.DataFrame) -> Markup:
    """Return the map as SVG: a dot a class, larger with more training images and colored by accuracy; lines join pairs.

    Args:
        classes: columns class, train_images, accuracy, map_x, map_y, see `ErrorTables`; the index is 0, 1, ….
        cases: columns true, top1, correct.
    """
    shown = classes[classes["map_x"].notna()]
    place = {
        name: (_BORDER + x * (_WIDTH - 2 * _BORDER), _BORDER + y * (_HEIGHT - 2 * _BORDER))
        for name, x, y in zip(shown["class"], shown["map_x"], shown["map_y"], strict=True)
    }
    pairs = confusions(cases)
    pairs = pairs[pairs["first"].isin(place.keys()) & pairs["second"].isin(place.keys())]
    parts = [f'<svg class="map" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="map of the classes">']
    pairs = pairs.head(len(shown))
    for first, second, images in pairs.itertuples(index=False, name=None):
        parts.append(_line(place, first, second, 1 + 4 * images / pairs["images"].iloc[0], images))
    most = max(1, shown["train_images"].max()) if len(shown) else 1
    radius = 9 if len(shown) < 200 else 6
    for row in shown.itertuples():
        parts.append(_dot(place[row[1]], row, radius * max(0.4, math.sqrt(row.train_images / most))))
    confused = pd.unique(pairs[["first", "second"]].to_numpy(object).ravel())
    return Markup("".join([*parts, *_labels(place, confused), "</svg>"]))


def _line(place: dict, first: str, second: str, width: float, images: int) -> str:
    (x1, y1), (x2, y2) = place[first], place[second]
    names = " and ".join(escape(escape_controls(name)) for name in (first, second))
    return (
        f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke-width="{width:.1f}">'
        f"<title>{names}: {images} confused</title></line>"
    )


def _dot(place: tuple[float, float], row, radius: float) -> str:
    """Return a dot; error_page.js knows its class by the number of its row, and shows name and numbers."""
    kind = next((name for bound, name in ACCURACIES if row.accuracy < bound), "none")
    circle = f'cx="{place[0]:.0f}" cy="{place[1]:.0f}" r="{radius:.1f}"'
    return f'<circle class="{kind}" data-class="{row.Index}" {circle}/>'


def _labels(place: dict, names: Sequence[str]) -> list[str]:
    """Return the names of the most confused classes, where they cover no earlier one."""
    boxes: list[tuple[float, float, float]] = []  # left, right, baseline
    labels = []
    for name in names:
        text, (x, y) = shorten_middle(escape_controls(name), 22), place[name]
        width = sum(_LETTER if letter.isascii() else 2 * _LETTER for letter in text)
        left = x + 9 if x + 9 + width < _WIDTH else x - 9 - width
        if all(left > r or left + width < l or abs(y - b) > _LINE for l, r, b in boxes):  # noqa: E741
            boxes.append((left, left + width, y))
            labels.append(f'<text x="{left:.0f}" y="{y + 4:.0f}">{escape(text)}</text>')
        if len(labels) == _LABELS:
            break
    return labels
