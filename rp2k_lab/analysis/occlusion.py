"""Heat maps by covering image parts: occlusion (Zeiler & Fergus, ECCV 2014, arXiv 1311.2901, section 4.2)."""

import numpy as np
from mindspore import Tensor

from rp2k_lab.evaluation.predictor import Logits
from rp2k_lab.model import WithPreprocessing

GRID = 5  # windows along each side
WINDOW = 0.3  # fraction of the side: neighboring windows overlap


def cover_windows(image: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Return copies of an image with one window covered each: uint8 (h, w, 3) to uint8 (GRID², h, w, 3), row by row.

    Letterbox padding (exactly black) is never covered: a patch there would look like an object.

    Args:
        color: uint8 (3,).
    """
    near = []
    for side in image.shape[:2]:
        centers, pixels = (np.arange(GRID) + 0.5) / GRID, (np.arange(side) + 0.5) / side
        near.append(np.abs(pixels - centers[:, None]) <= max(WINDOW / 2, 0.5 / side))
    covered = near[0][:, None, :, None] & near[1][None, :, None, :] & image.any(-1)
    return np.where(covered[..., None], color, image).reshape(GRID**2, *image.shape).astype(np.uint8)


class Occlusion:
    """Loss of a class's logit when each window is covered.

    Args:
        network: uint8 images (batch, height, width, 3) to logits; must be in evaluation mode.
        color: of the patch, uint8 (3,); the data's mean color is the most neutral.
    """

    def __init__(self, network: WithPreprocessing, color: np.ndarray, batch_size: int):
        self._logits, self._color, self._batch_size = Logits(network).set_train(False), color, batch_size

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the drop of each image's class logit for each covered window, at least 0: float32 (n, GRID, GRID).

        Args:
            images: uint8 (n, height, width, 3); labels: int (n,).
        """
        views = np.concatenate([np.concatenate([image[None], cover_windows(image, self._color)]) for image in images])
        padding = -len(views) % self._batch_size  # one graph for all batches
        views = np.concatenate([views, np.zeros((padding, *views.shape[1:]), np.uint8)])
        parts = [views[i : i + self._batch_size] for i in range(0, len(views), self._batch_size)]
        logits = np.concatenate([self._logits(Tensor(part)).asnumpy() for part in parts])
        logits = logits[: len(logits) - padding]
        logits = logits.reshape(len(images), 1 + GRID**2, -1)[np.arange(len(images)), :, labels]
        return np.maximum(logits[:, :1] - logits[:, 1:], 0).reshape(-1, GRID, GRID).astype(np.float32)
