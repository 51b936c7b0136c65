"""The color jitter of the published baseline."""

from itertools import permutations

from rp2k_lab.aug import transforms

_ORDERS = tuple(permutations((transforms.brightness, transforms.contrast, transforms.saturation)))


class ColorJitter:
    """Brightness, contrast and saturation, each by a factor in 1 ± `strength`, in random order (as torchvision)."""

    def __init__(self, strength=0.4):
        self.strength = strength

    def __call__(self, image, rng):
        which, *draws = rng.random(4).tolist()
        for transform, draw in zip(_ORDERS[int(len(_ORDERS) * which)], draws, strict=True):
            image = transform(image, 1 + self.strength * (2 * draw - 1))
        return image
