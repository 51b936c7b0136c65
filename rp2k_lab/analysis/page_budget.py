"""Which pictures the errors' page has room for, in which order."""

from collections.abc import Callable

import numpy as np

from rp2k_lab.analysis.thumbnails import Thumbnails
from rp2k_lab.pages.images import in_base64

NO_PICTURES = (-1, -1, ())  # the end of a row: its photo, what explains it, nearest training images
_PHOTO, _SEEN, _NEAR = -3, -2, -1
_FIRST_SHARE = 0.65  # of the bytes: photos and class examples; the rest explains them
_CLUSTERS, _CLUSTER_CLASSES, _NEAREST = 60, 8, 3
_QUALITY = 76
_BYTES_OF_NUMBERS = 60  # of a row's numbers of pictures, or one picture's


class Album:
    """Pictures in base64, each once, until the budget is spent."""

    def __init__(self, budget: int):
        self.pictures: list[str] = []
        self._budget, self._places = budget, {}

    def limit(self, share: float) -> None:
        """Keep the rest of the budget for later; 1 gives all of it free."""
        self._reserved = int(self._budget * (1 - share))

    def place(self, key, draw: Callable[[], np.ndarray | None]) -> int | None:
        """The picture's number, -1 where there is none; None where the page is full."""
        if key not in self._places:
            image = draw()
            text = "" if image is None else in_base64(image, ".jpg", _QUALITY)
            if len(text) + _BYTES_OF_NUMBERS > self._budget - self._reserved:
                return None
            self._budget -= len(text) + _BYTES_OF_NUMBERS if text else 0
            self._places[key] = len(self.pictures) if text else -1
            self.pictures += [text] if text else []
        return self._places[key]

    def note(self) -> None:
        """A row more names its pictures."""
        self._budget -= _BYTES_OF_NUMBERS

    def examples(self, ids: dict[str, int]) -> dict[int, int]:
        """Class number to picture number."""
        found = ((ids[key], place) for key, place in self._places.items() if isinstance(key, str))
        return {number: place for number, place in found if place >= 0}


def add_pictures(
    album: Album, rows: list, errors: list[dict], ids: dict, clusters: list, names: list, thumbnails: Thumbnails
) -> dict[str, int]:
    """Fill the rows' pictures: the clusters' classes, then photos with both classes, then what explains them."""

    def example(name: str) -> int | None:
        return album.place(name, lambda: thumbnails.example(name))

    def photo(row: int) -> int | None:
        return album.place(row, lambda: thumbnails.photo(row))

    def picture(target: list, error: dict) -> bool:
        places = [example(error["true"]), example(error["top1"]), photo(error["row"])]
        target[_PHOTO] = -1 if None in places else places[-1]
        return None not in places

    def explain(target: list, error: dict) -> bool:
        row, near = error["row"], [int(n) for n in error["nearest"][:_NEAREST]]
        seen = album.place(("seen", row), lambda: thumbnails.explanation(row))
        places = [photo(n) for n in near]
        if seen is None or None in places:
            return False
        numbers = [ids.get(thumbnails.class_of(n), -1) for n in near]
        target[_SEEN], target[_NEAR] = seen, [list(pair) for pair in zip(numbers, places, strict=True)]
        return True

    def fill(step: Callable[[list, dict], bool], first: int, end: int) -> int:
        """Take the step for one row after the other; the number of the first that the page has no room for."""
        for i in range(first, end):
            if not step(rows[i], errors[i]):
                return i
            album.note()
        return end

    album.limit(_FIRST_SHARE)
    for _, members, *_ in clusters[:_CLUSTERS]:
        for number in members[:_CLUSTER_CLASSES]:
            example(names[number])
    pictured = fill(picture, 0, len(rows))
    album.limit(1)
    explained = fill(explain, 0, pictured)
    pictured = fill(picture, pictured, len(rows))
    return {"photos": len(rows) - pictured, "explanations": len(rows) - explained}
