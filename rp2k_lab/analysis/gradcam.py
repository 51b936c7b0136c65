"""Heat maps of a class in an image: Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391, section 3).

The explained feature map is the last one before the global mean: the backbone's or, in a widened head, its
convolution's.  With a head of a mean and a dense layer, Grad-CAM equals CAM (Zhou et al., CVPR 2016, arXiv 1512.04150;
equality: Grad-CAM's appendix A): before clipping, a cell's value is its contribution to the class's logit.  This also
holds for `swin_tiny`, whose tokens form a grid, but its maps are less local: attention mixes neighboring tokens.  With
a head of cosines a cell's value is its contribution to the change of the logit, and the values sum to 0: longer
features do not change an angle.

Backbones divide the sides by 32, which leaves too few cells of a small input: `Explainer` then uses occlusion.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab.analysis.occlusion import Occlusion
from rp2k_lab.model import Network, WithPreprocessing
from rp2k_lab.model.layers import global_mean

MIN_GRID = 4  # cells along a side, for Grad-CAM: inputs of 128 pixels
LEVELS = ((0.5, 1), (0.8, 2))  # contours: fraction of the map's maximum, width of the line [pixels]
_DARK, _LIGHT = (20, 20, 20), (255, 214, 64)


class Explanation(NamedTuple):
    """Heat maps of a class, float32 (images, h, w), and the method: Grad-CAM or occlusion; "" if there are none."""

    maps: np.ndarray
    method: str


class _Score(nn.Cell):
    """The head behind its last feature map: (batch, channels, h, w) and one-hot classes to the sum of their logits."""

    def __init__(self, network: Network):
        super().__init__(auto_prefix=False)
        self.head = network.head

    def construct(self, maps, chosen):
        return (self.head.classify(global_mean(maps)).astype("float32") * chosen).sum()


class GradCam(nn.Cell):
    """uint8 images (batch, height, width, 3), classes float32 one-hot (batch, classes) to maps, float32 (batch, h, w).

    A value is the cell's contribution to the class's logit, clipped at 0; unclipped, a map of a linear head sums to the
    logit without its bias.  Only the head is differentiated.  The network must be in evaluation mode.
    """

    def __init__(self, network: WithPreprocessing):
        super().__init__(auto_prefix=False)  # checkpoints use the network's parameter names
        self.network = network
        self.gradient = ops.GradOperation()(_Score(network.network))

    def construct(self, images, chosen):
        net = self.network.network
        maps = net.head.widen(net.backbone(self.network.normalize(images)))
        batch, channels, height, width = maps.shape
        weights = global_mean(self.gradient(maps, chosen)).reshape(batch, 1, channels)  # equation 1
        heat = ops.relu(ops.matmul(weights, maps.reshape(batch, channels, height * width)))  # equation 2
        return heat.reshape(batch, height, width).astype("float32")


class Explainer:
    """Heat maps of a class in batches of images; one compiled graph serves all batches.

    `GradCam` takes one forward pass.  `Occlusion` takes 26 and replaces it if its maps have fewer than `MIN_GRID` cells
    along a side.  Both are in the logit's unit and not negative.

    Args:
        network: stays in evaluation mode.
        batch_size: the largest batch; smaller ones are padded.

    Attributes:
        cells: along the shorter side of the network's last map, known after the first batch.
    """

    def __init__(self, network: WithPreprocessing, batch_size: int):
        self._network, self._batch_size, self.cells = network, batch_size, 0
        self._cell = GradCam(network).set_train(False)
        self._occlusion: Occlusion | None = None

    @property
    def method(self) -> str:
        """The method of the maps, known after the first batch: Grad-CAM or occlusion."""
        return "occlusion" if self._occlusion else "Grad-CAM"

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the heat maps of one class in each image, float32 (n, h, w).

        Args:
            images: uint8 (n, height, width, 3).
            labels: int (n,).
        """
        if self._occlusion is None:
            heat = _grad_cam(self._cell, images, labels, self._batch_size)
            self.cells = min(heat.shape[1:])
            if self.cells >= MIN_GRID:
                return heat
            self._occlusion = Occlusion(self._network, self._network.normalize.mean_color(), self._batch_size)
        return self._occlusion(images, labels)


def explain(
    network: WithPreprocessing,
    batches: Iterable[Sequence[np.ndarray]],
    labels: np.ndarray,
    batch_size: int,
    check: Callable[[], None] = lambda: None,
    least_cells: int = 0,
) -> Explanation:
    """Return a heat map of a class for each image, by `Explainer`; no maps if the network's have too few cells.

    Args:
        batches: one view each, from `rp2k_lab.train.build.batches_for`: uint8 (n, height, width, 3) with n =
            `batch_size`, smaller in the last batch.
        labels: int (images,), the class to explain in each image, in the order of `batches`.
        check: called between batches; raises to stop (a signal).
        least_cells: along a side of the network's last map.
    """
    explainer, maps, first = Explainer(network, batch_size), [], 0
    for (images,) in batches:
        check()
        maps.append(explainer(images, labels[first : first + len(images)]))
        first += len(images)
        if explainer.cells < least_cells:
            return Explanation(np.zeros((0, 1, 1), np.float32), "")
    return Explanation(np.concatenate(maps or [np.zeros((0, 1, 1), np.float32)]), explainer.method)


def _grad_cam(cell: GradCam, images: np.ndarray, labels: np.ndarray, batch_size: int) -> np.ndarray:
    count = len(images)
    chosen = np.zeros((batch_size, cell.network.network.head.fc.out_channels), np.float32)
    chosen[np.arange(count), labels] = 1
    if count < batch_size:  # one graph for all
        images = np.concatenate([images, np.zeros((batch_size - count, *images.shape[1:]), np.uint8)])
    return cell(Tensor(images), Tensor(chosen)).asnumpy()[:count]


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return the heat map over the network's input image, uint8 RGB (height, width, 3).

    At the map's maximum the image keeps its colors and is tinted red; at zero it is gray and darker, so that red
    packaging does not look like heat.

    Args:
        heat: (h, w), not negative, any unit.
    """
    size = image.shape[1], image.shape[0]
    fraction = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    fraction = (fraction / max(float(heat.max()), 1e-12))[..., None]
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) * 0.55
    tinted = image * 0.65 + np.array([255, 40, 0]) * 0.35
    return np.clip(gray + fraction * (tinted - gray), 0, 255).round().astype(np.uint8)


def draw_contours(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return the image with the map's contours at LEVELS, uint8 RGB (height, width, 3); its colors stay.

    Args:
        heat: (h, w) over the whole image, not negative, any unit; without heat there is no contour.
    """
    size, drawn = (image.shape[1], image.shape[0]), image.copy()
    fraction = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_CUBIC) / max(float(heat.max()), 1e-12)
    for level, width in LEVELS:
        closed, _ = cv2.findContours((fraction >= level).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        lines = [line for points in closed for line in _without_edges(points[:, 0], size)]
        cv2.polylines(drawn, lines, False, _DARK, width + 2, cv2.LINE_AA)  # on light and on dark packaging
        cv2.polylines(drawn, lines, False, _LIGHT, width, cv2.LINE_AA)
    return drawn


def _without_edges(points: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """Return the parts of a closed contour that are not on an edge of the image, where the map ends and not the heat.

    Args:
        points: int (n, 2), x and y.
        size: (width, height).
    """
    on_edge = ((points <= 0) | (points >= np.array(size) - 1)).any(axis=1)
    if not on_edge.any():
        return [np.append(points, points[:1], axis=0)]
    first = int(on_edge.argmax())
    points, on_edge = np.roll(points, -first, axis=0), np.roll(on_edge, -first)
    return np.split(points, np.flatnonzero(np.diff(on_edge)) + 1)[1::2]
