"""The cell before every network, image bytes to normalized floats on the device; and a network in two parts."""

from collections.abc import Sequence

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from rp2k_lab.model.network import Network


class Normalize(nn.Cell):
    """uint8 RGB images (batch, height, width, 3) to float32 (batch, 3, height, width), (x / 255 - mean) / std.

    It runs on the device, so that a batch is transferred as bytes, a quarter of its size in float32.

    Args:
        mean, std: per RGB channel, [0, 1].
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        scale = 1.0 / (255.0 * np.asarray(std, np.float32))
        shift = -np.asarray(mean, np.float32) / np.asarray(std, np.float32)
        self.scale = Tensor(scale.reshape(1, 3, 1, 1), mstype.float32)
        self.shift = Tensor(shift.reshape(1, 3, 1, 1), mstype.float32)

    def construct(self, images):
        x = ops.transpose(ops.cast(images, mstype.float32), (0, 3, 1, 2))
        return x * self.scale + self.shift

    def mean_color(self) -> np.ndarray:
        """Return the color that is normalized to 0, uint8 (3,)."""
        color = -self.shift.asnumpy() / self.scale.asnumpy()
        return np.clip(np.round(color.ravel()), 0, 255).astype(np.uint8)


class WithPreprocessing(nn.Cell):
    """`Normalize`, then `network` with its parameter names: uint8 RGB images (batch, height, width, 3) to logits."""

    def __init__(self, network: Network, mean: Sequence[float], std: Sequence[float]):
        super().__init__(auto_prefix=False)
        self.normalize = Normalize(mean, std)
        self.network = network

    def construct(self, images):
        return self.network(self.normalize(images))

    def with_scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and scores (batch,) of an extended network."""
        return self.network.head.with_scores(self.network.backbone(self.normalize(images)))


class Front(nn.Cell):
    """The first part of a network: uint8 images (batch, height, width, 3) to float32, the input of `Rest`.

    Args:
        stages: of the backbone (`Backbone`); None: all of it and the head's mean, so that the output is the input of
            dropout and classifier, (batch, width).
    """

    def __init__(self, network: WithPreprocessing, stages: int | None = None):
        super().__init__(auto_prefix=False)  # checkpoints have the network's names
        self.network, self.stages = network, stages

    def construct(self, images):
        net, x = self.network.network, self.network.normalize(images)
        if self.stages is None:
            return net.head.features(net.backbone(x)).astype("float32")
        return net.backbone.run(x, 0, self.stages).astype("float32")


class Rest(nn.Cell):
    """The second part of a network: outputs of `Front` to logits (batch, classes).

    It has the whole network, so that its checkpoints have too.

    Args:
        stages: those of the front.
    """

    def __init__(self, network: WithPreprocessing, stages: int | None = None):
        super().__init__(auto_prefix=False)
        self.network, self.stages = network, stages

    def construct(self, x):
        net = self.network.network
        if self.stages is None:
            return net.head.classify(x)
        return net.head(net.backbone.run(x, self.stages, net.backbone.num_stages + 1))

    def with_scores(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and scores (batch,) of an extended network, whose front has all stages."""
        return self.network.network.head.fc.with_scores(features)
