"""The cell before every network: from the bytes of a photo to normalized floats, on the device."""

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype


class Normalize(nn.Cell):
    """uint8 RGB images (batch, height, width, 3) to float32 (batch, 3, height, width), (x / 255 - mean) / std.

    It runs on the device, so that a batch is four times smaller on its way there.

    Args:
        mean, std: per RGB channel, on the scale 0 to 1.
    """

    def __init__(self, mean, std):
        super().__init__()
        scale = 1.0 / (255.0 * np.asarray(std, np.float32))
        shift = -np.asarray(mean, np.float32) / np.asarray(std, np.float32)
        self.scale = Tensor(scale.reshape(1, 3, 1, 1), mstype.float32)
        self.shift = Tensor(shift.reshape(1, 3, 1, 1), mstype.float32)

    def construct(self, images):
        x = ops.transpose(ops.cast(images, mstype.float32), (0, 3, 1, 2))
        return x * self.scale + self.shift

    def mean_color(self) -> np.ndarray:
        """The color that becomes 0, uint8 (3,)."""
        color = -self.shift.asnumpy() / self.scale.asnumpy()
        return np.clip(np.round(color.ravel()), 0, 255).astype(np.uint8)


class WithPreprocessing(nn.Cell):
    """A network that takes a photo's bytes: `Normalize`, then `network`, whose parameter names stay as they are.

    uint8 RGB images (batch, height, width, 3) to logits (batch, classes).
    """

    def __init__(self, network: nn.Cell, mean, std):
        super().__init__(auto_prefix=False)
        self.normalize = Normalize(mean, std)
        self.network = network

    def construct(self, images):
        return self.network(self.normalize(images))
