"""Crops of photos as paths: `photo.jpg#xywh=x,y,width,height`, a spatial fragment (W3C Media Fragments URI 1.0, 4.2.2).

Such a path stands wherever a path of an image does; a file of exactly this name comes first.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

_FRAGMENT = re.compile(r"#xywh=(\d+),(\d+),(\d+),(\d+)\Z")


class Box(NamedTuple):
    """A rectangle in an upright image [pixels]."""

    x: int
    y: int
    width: int
    height: int

    def within(self, height: int, width: int) -> "Box | None":
        """Return the part within an image of this size; None if there is none."""
        left, top = min(self.x, width), min(self.y, height)
        right, bottom = min(self.x + self.width, width), min(self.y + self.height, height)
        return Box(left, top, right - left, bottom - top) if right > left and bottom > top else None


def crop_path(path: str, box: Box) -> str:
    """Return the path of a crop."""
    return f"{path}#xywh={box.x},{box.y},{box.width},{box.height}"


def split_crop(path: Path | str) -> tuple[str, Box | None]:
    """Return (file, box) of a path by its name alone; the box is None where it names no crop."""
    text = os.fspath(path)
    match = _FRAGMENT.search(text) if "#" in text else None
    return (text, None) if match is None else (text[: match.start()], Box(*map(int, match.groups())))


def file_of(path: Path | str) -> tuple[str, Box | None]:
    """Return (file, box) of a path; a file of exactly this name has no box."""
    file, box = split_crop(path)
    return (os.fspath(path), None) if box and os.path.lexists(path) else (file, box)
