"""The color jitter of the published baseline."""

from itertools import permutations

import numpy as np

from rp2k_lab.aug import transforms

_ORDERS = tuple(permutations((transforms.brightness, transforms.contrast, transforms.saturation)))


class ColorJitter:
    """Change brightness, contrast and saturation by factors in 1 ± `strength`, in random order (as torchvision)."""

    def __init__(self, strength: float = 0.4):
        self.strength = strength

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        which, *draws = rng.random(4).tolist()
        for transform, draw in zip(_ORDERS[int(len(_ORDERS) * which)], draws, strict=True):
            image = transform(image, 1 + self.strength * (2 * draw - 1))
        return image
