"""Where in a photo a network saw a class: Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391, section 3).

The map explained is the last one before the mean: the backbone's or, where the head widens it, that convolution's.
With our head, a mean and a dense layer, Grad-CAM is CAM (Zhou et al., CVPR 2016, arXiv 1512.04150; equality: appendix A
of Grad-CAM): a place's value, before negative ones are cut off, is what it adds to the class's logit.  That holds for
any backbone with such a head: also for `swin_tiny`, whose tokens lie on a grid as a convolution's places do, although
attention has carried what surrounds a token into it, so that its maps are less local.

A backbone divides the sides by 32, so that of a small input little more than one place is left, which says nothing:
`explain` then covers parts of the image instead.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab.analysis.occlusion import Occlusion
from rp2k_lab.model import Network, WithPreprocessing
from rp2k_lab.model.layers import global_mean

LEAST_PLACES = 4  # along a side, for Grad-CAM: inputs of 128 pixels


class Explanation(NamedTuple):
    """Where a class was seen: float32 maps (photos, h, w), and by which method they were made."""

    maps: np.ndarray
    method: str


class _Score(nn.Cell):
    """The head from its last map on: (batch, channels, h, w) and classes as one-hot to the sum of their logits."""

    def __init__(self, network: Network):
        super().__init__(auto_prefix=False)
        self.head = network.head

    def construct(self, maps, chosen):
        return (self.head.classify(global_mean(maps)).astype("float32") * chosen).sum()


class GradCam(nn.Cell):
    """uint8 images (batch, height, width, 3), classes float32 one-hot (batch, classes) to maps, float32 (batch, h, w).

    A value is what the place adds to the class's logit, 0 where it takes away: without that cut, a map's sum is the
    logit without its bias.  Only the head is differentiated; the network has to be in evaluation mode.
    """

    def __init__(self, network: WithPreprocessing):
        super().__init__(auto_prefix=False)  # the checkpoint's names are the network's
        self.network = network
        self.gradient = ops.GradOperation()(_Score(network.network))

    def construct(self, images, chosen):
        net = self.network.network
        maps = net.head.widen(net.backbone(self.network.normalize(images)))
        batch, channels, height, width = maps.shape
        weights = global_mean(self.gradient(maps, chosen)).reshape(batch, 1, channels)  # equation 1
        heat = ops.relu(ops.matmul(weights, maps.reshape(batch, channels, height * width)))  # equation 2
        return heat.reshape(batch, height, width).astype("float32")


def explain(
    network: WithPreprocessing,
    batches: Iterable[Sequence[np.ndarray]],
    labels: np.ndarray,
    batch_size: int,
    check: Callable[[], None] = lambda: None,
) -> Explanation:
    """Where a class was seen in each photo; the network is left in evaluation mode.

    By `GradCam`, in one pass, or where its map has fewer than `LEAST_PLACES` along a side, by `Occlusion`, in 26:
    there it pays to explain what the page shows first (`page.page_order`).
    Both are in the logit's unit and not negative.

    Args:
        batches: of one view each, as `rp2k_lab.train.build.batches_for` gives them: uint8 (n, height, width, 3), n =
            `batch_size` but for the last one.
        labels: int (photos,), the class to explain in each photo, in the order of `batches`.
        check: called between batches; raises to stop (a signal).
    """
    cell, found, first = GradCam(network).set_train(False), [], 0
    covering = None
    for (images,) in batches:
        check()
        theirs = labels[first : first + len(images)]
        if covering is None:
            maps = _grad_cam(cell, images, theirs, batch_size)
            if min(maps.shape[1:]) < LEAST_PLACES:
                covering = Occlusion(network, network.normalize.mean_color(), batch_size)
        found.append(maps if covering is None else covering(images, theirs))
        first += len(images)
    method = "Grad-CAM" if covering is None else "occlusion"
    return Explanation(np.concatenate(found or [np.zeros((0, 1, 1), np.float32)]), method)


def _grad_cam(cell: GradCam, images: np.ndarray, labels: np.ndarray, batch_size: int) -> np.ndarray:
    count = len(images)
    chosen = np.zeros((batch_size, cell.network.network.head.fc.out_channels), np.float32)
    chosen[np.arange(count), labels] = 1
    if count < batch_size:  # one graph for all
        images = np.concatenate([images, np.zeros((batch_size - count, *images.shape[1:]), np.uint8)])
    return cell(Tensor(images), Tensor(chosen)).asnumpy()[:count]


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The heat over the very image that the network was given, uint8 RGB (height, width, 3).

    Where the map has its maximum the image keeps its colors and is tinted red; where it has nothing it is gray and
    darker, so that red packaging is not taken for heat.

    Args:
        heat: (h, w), not negative, of any unit.
    """
    size = image.shape[1], image.shape[0]
    share = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    share = (share / max(float(heat.max()), 1e-12))[..., None]
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) * 0.55
    tinted = image * 0.65 + np.array([255, 40, 0]) * 0.35
    return np.clip(gray + share * (tinted - gray), 0, 255).round().astype(np.uint8)
