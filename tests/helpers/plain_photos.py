"""A folder of photos that a network learns in seconds."""

from pathlib import Path

import cv2
import numpy as np

COLORS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def plain_photos(folder: Path, layout: str = "brand {}", count: int = 20) -> Path:
    """Write three classes of `count` noisy photos of one color each, as `<layout>/<number>.png`; return the folder."""
    rng = np.random.default_rng(0)
    for number, color in enumerate(COLORS):
        target = folder / layout.format(number)
        target.mkdir(parents=True)
        for i in range(count):
            image = np.clip(rng.normal(color, 25, (40, 30, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(target / f"{i}.png"), image)
    return folder
