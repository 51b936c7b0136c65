"""Print the losses of two steps of a small network in a separate process: `loss_after_one_step.py SMOOTHING`."""

import sys

import rp2k_lab  # noqa: F401  before MindSpore: sets its environment

import mindspore  # isort: skip
import numpy as np
from mindspore import Tensor, nn

from rp2k_lab.model import create_model


def main(smoothing: float) -> None:
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    net = create_model("resnet18", 3, width_multiplier=0.25, depth_multiplier=0.5)
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
    optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9)
    step = nn.TrainOneStepCell(nn.WithLossCell(net, loss), optimizer).set_train()
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(8, 3, 32, 32)).astype(np.float32), rng.integers(0, 3, 8).astype(np.int32)
    print(*(float(step(Tensor(images), Tensor(labels)).asnumpy()).hex() for _ in range(2)))


if __name__ == "__main__":
    main(float(sys.argv[1]))
