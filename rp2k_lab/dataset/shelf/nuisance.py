"""Nuisances of a photo, one small function each.

Each takes a strength (above 0, up to 1) and its own random generator, so that leaving one out changes nothing in the
others.  Scenes are float32 RGB, 0–255, in the canvas's shape of drawing.py, before the crop is scaled to its height and
width: only JPEG depends on an image's ratio.
"""

import cv2
import numpy as np

from rp2k_lab.dataset.shelf.drawing import HEIGHT, WIDTH

_Y, _X = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)


def tilt(corners: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Return the corners (4 × 2, pixels) seen at an angle: up to 11° of rotation and 14 % of perspective."""
    angle = np.deg2rad(11 * strength) * rng.choice([-1, 1]) * rng.uniform(0.6, 1)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    center = corners.mean(0)
    # One edge of the four (top, right, bottom, left) is further away, hence shorter.
    far = rng.integers(4)
    edge = [far, (far + 1) % 4]
    shrunk = corners.copy()
    shrunk[edge] += (corners[edge].mean(0) - corners[edge]) * 0.28 * strength * rng.uniform(0.4, 1)
    # Shrunk, since a rotated product would leave the crop.
    return (shrunk - center) @ rotation.T * (1 - 0.07 * strength) + center


def reflect(scene: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Add a lamp's streak and a spot of glare."""
    slope, offset = rng.uniform(-0.35, 0.35), rng.uniform(0.25, 0.75) * WIDTH
    width = rng.uniform(5, 11)
    streak = np.exp(-((((_X - offset) + slope * (_Y - HEIGHT / 2)) / width) ** 2))
    x, y = rng.uniform(0.2, 0.8) * WIDTH, rng.uniform(0.15, 0.85) * HEIGHT
    spot = np.exp(-(((_X - x) / rng.uniform(8, 20)) ** 2) - ((_Y - y) / rng.uniform(10, 26)) ** 2)
    glare = np.maximum(streak * rng.uniform(0.5, 1), spot)
    return scene + (255 - scene) * (0.95 * strength * glare)[..., None]


def expose(scene: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Expose by up to 1.4 stops less or 0.9 more, clipped at white."""
    stops = -1.4 * strength if rng.random() < 0.55 else 0.9 * strength
    return np.minimum(scene * np.float32(2.0**stops), 255)


def cast_color(scene: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Light with a warm, cold or greenish lamp: channel gains within ±35 %."""
    casts = np.array([(1.0, 0.05, -1.0), (-1.0, 0.0, 0.9), (-0.5, 0.6, -0.6)])
    gains = 1 + 0.35 * strength * (casts[rng.integers(3)] + rng.uniform(-0.15, 0.15, 3))
    return np.minimum(scene * gains.astype(np.float32), 255)


def blur(scene: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Blur by defocus or motion: Gaussian with up to 2.6 px of the canvas's 96 × 216, motion along one axis."""
    sigma = 2.6 * strength
    across, along = (1.0, 1.0) if rng.random() < 0.5 else rng.permutation([1.3, 0.35])
    return cv2.GaussianBlur(scene, (0, 0), sigmaX=sigma * across, sigmaY=sigma * along)


def recapture(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a near copy: up to 4 % cropped from each side, and exposed up to 8 % differently."""
    left, top, right, bottom = rng.uniform(0.005, 0.04, 4)
    x0, y0, x1, y1 = left * WIDTH, top * HEIGHT, (1 - right) * WIDTH, (1 - bottom) * HEIGHT
    crop = np.array([[(x1 - x0) / WIDTH, 0, x0], [0, (y1 - y0) / HEIGHT, y0]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    copy = cv2.warpAffine(scene, crop, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.minimum(copy * np.float32(rng.uniform(0.92, 1.08)), 255)
