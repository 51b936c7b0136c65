"""Images of the errors' page, by priority, within a budget of bytes."""

from collections.abc import Callable

import numpy as np

from rp2k_lab.analysis.thumbnails import Thumbnails
from rp2k_lab.pages.images import in_base64

NO_THUMBNAILS = (-1, -1, ())  # the end of a row: its image, its explanation, its nearest training images
_IMAGE, _EXPLANATION, _NEAREST = -3, -2, -1
_FIRST_FRACTION = 0.65  # of the bytes, for images and class examples; the rest is for explanations
_CLUSTERS, _CLUSTER_CLASSES, _NEIGHBORS = 60, 8, 3
_QUALITY = 76
_LARGE_BYTES = 6_000_000  # at most, for photos to enlarge
_LARGE_FRACTION = 0.2  # of the bytes that are kept for them
_NUMBER_BYTES = 60  # for the numbers of a row's thumbnails, or the quotes and number of one thumbnail


class PageBudget:
    """Images in base64, each stored once, until the budget is spent; a part is kept for `begin_large`.

    Attributes:
        thumbnails: JPEG in base64, by number.
    """

    def __init__(self, budget: int):
        self.thumbnails: list[str] = []
        self._kept = int(budget * _LARGE_FRACTION)
        self._budget, self._numbers = budget - self._kept, {}

    def limit(self, fraction: float) -> None:
        """Allow this fraction of the initial budget, and reserve the rest."""
        self._reserved = int(self._budget * (1 - fraction))

    def add(self, key: int | str | tuple[str, int | str], draw: Callable[[], np.ndarray | None]) -> int | None:
        """Return a thumbnail's number, -1 if `draw` returns None; None if the page is full."""
        if key not in self._numbers:
            image = draw()
            text = "" if image is None else in_base64(image, ".jpg", _QUALITY)
            if len(text) + _NUMBER_BYTES > self._budget - self._reserved:
                return None
            self._budget -= len(text) + _NUMBER_BYTES if text else 0
            self._numbers[key] = len(self.thumbnails) if text else -1
            self.thumbnails += [text] if text else []
        return self._numbers[key]

    def begin_large(self) -> None:
        """Allow what was kept and what is left, at most `_LARGE_BYTES`."""
        self._budget, self._reserved = min(self._budget + self._kept, _LARGE_BYTES), 0

    def reserve_row(self) -> None:
        """Reserve the bytes of one more row's numbers."""
        self._budget -= _NUMBER_BYTES

    def examples(self, ids: dict[str, int]) -> dict[int, int]:
        """Return class number to thumbnail number."""
        numbers = ((ids[key], number) for key, number in self._numbers.items() if isinstance(key, str))
        return {class_number: number for class_number, number in numbers if number >= 0}


def add_thumbnails(
    budget: PageBudget, rows: list, errors: list[dict], ids: dict[str, int], clusters: list, thumbnails: Thumbnails
) -> dict[str, int]:
    """Fill in the rows' thumbnails: examples of the clusters' classes, images with both classes, then explanations.

    Args:
        errors: of the rows.
        ids: class name to its position among the names.
        clusters: of the page's data.

    Returns:
        Rows without images and without explanations.
    """
    names = list(ids)

    def example(name: str) -> int | None:
        return budget.add(name, lambda: thumbnails.example(name))

    def image(row: int) -> int | None:
        return budget.add(row, lambda: thumbnails.image(row))

    def add_image(target: list, error: dict) -> bool:
        numbers = [example(error["true"]), example(error["top1"]), image(error["row"])]
        target[_IMAGE] = -1 if None in numbers else numbers[-1]
        return None not in numbers

    def add_explanation(target: list, error: dict) -> bool:
        row, neighbors = error["row"], [int(n) for n in error["nearest"][:_NEIGHBORS]]
        explanation = budget.add(("explanation", row), lambda: thumbnails.explanation(row))
        numbers = [image(n) for n in neighbors]
        if explanation is None or None in numbers:
            return False
        classes = [ids.get(thumbnails.class_of(n), -1) for n in neighbors]
        target[_EXPLANATION] = explanation
        target[_NEAREST] = [list(pair) for pair in zip(classes, numbers, strict=True)]
        return True

    def fill(step: Callable[[list, dict], bool], first: int, end: int) -> int:
        """Apply `step` to rows until the page is full; return the first row left out."""
        for i in range(first, end):
            if not step(rows[i], errors[i]):
                return i
            budget.reserve_row()
        return end

    budget.limit(_FIRST_FRACTION)
    for _, members, *_ in clusters[:_CLUSTERS]:
        for number in members[:_CLUSTER_CLASSES]:
            example(names[number])
    with_image = fill(add_image, 0, len(rows))
    budget.limit(1)
    with_explanation = fill(add_explanation, 0, with_image)
    with_image = fill(add_image, with_image, len(rows))
    return {"images": len(rows) - with_image, "explanations": len(rows) - with_explanation}


def add_large(
    budget: PageBudget, errors: list[dict], ids: dict, thumbnails: Thumbnails
) -> tuple[dict[int, int], dict[int, int]]:
    """Add photos to enlarge, with the examples of their classes: suspected labels first, then the page's order.

    Returns:
        Number of the error, and number of the class, to number of the image.
    """
    photos, examples = {}, {}
    for i in sorted(range(len(errors)), key=lambda i: not errors[i]["suggested"]):  # stable
        error = errors[i]
        photo = budget.add(("large", error["row"]), lambda row=error["row"]: thumbnails.large(row))
        if photo is None:
            break
        photos[i] = photo
        for name in filter(None, (error["true"], error["suggested"] or error["top1"])):
            example = budget.add(("large", name), lambda name=name: thumbnails.large_example(name))
            examples[ids[name]] = -1 if example is None else example
    return ({i: n for i, n in photos.items() if n >= 0}, {i: n for i, n in examples.items() if n >= 0})
