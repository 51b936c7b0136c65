"""Where in a photo a network saw a class: Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391, section 3).

The map explained is the last one before the mean: the backbone's or, where the head widens it, that convolution's.
With our head, a mean and a dense layer, Grad-CAM is CAM (Zhou et al., CVPR 2016, arXiv 1512.04150; equality: appendix A
of Grad-CAM): a place's value, before negative ones are cut off, is what it adds to the class's logit.  That holds for
any backbone with such a head: also for `swin_tiny`, whose tokens lie on a grid as a convolution's places do, although
attention has carried what surrounds a token into it, so that its maps are less local.
"""

from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab.model import Network, WithPreprocessing
from rp2k_lab.model.layers import global_mean


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
        maps = net.head.widen(net.backbone(self.network.normalise(images)))
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
) -> np.ndarray:
    """Grad-CAM of a class in each photo, float32 (photos, h, w) as `GradCam`; the network is left in evaluation mode.

    Args:
        batches: of one view each, as `rp2k_lab.build.batches_for` gives them: uint8 (n, height, width, 3), n =
            `batch_size` but for the last one.
        labels: int (photos,), the class to explain in each photo, in the order of `batches`.
        check: called between batches; raises to stop (a signal).
    """
    cell, found, first = GradCam(network).set_train(False), [np.zeros((0, 1, 1), np.float32)], 0
    classes = network.network.head.fc.out_channels
    for (images,) in batches:
        check()
        count = len(images)
        chosen = np.zeros((batch_size, classes), np.float32)
        chosen[np.arange(count), labels[first : first + count]] = 1
        if count < batch_size:  # one graph for all
            images = np.concatenate([images, np.zeros((batch_size - count, *images.shape[1:]), np.uint8)])
        found.append(cell(Tensor(images), Tensor(chosen)).asnumpy()[:count])
        first += count
    return np.concatenate(found[1:] or found)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The heat over the very image that the network was given, uint8 RGB (height, width, 3).

    Where the map has its maximum the image keeps its colours and is tinted red; where it has nothing it is grey and
    darker, so that red packaging is not taken for heat.

    Args:
        heat: (h, w), not negative, of any unit.
    """
    size = image.shape[1], image.shape[0]
    share = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    share = (share / max(float(heat.max()), 1e-12))[..., None]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) * 0.55
    tinted = image * 0.65 + np.array([255, 40, 0]) * 0.35
    return np.clip(grey + share * (tinted - grey), 0, 255).round().astype(np.uint8)
