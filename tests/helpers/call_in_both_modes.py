"""Call a network in PyNative mode, forward and backward, then in graph mode; print a comparison as JSON.

`call_in_both_modes.py NAME`, in a separate process: nothing before the network may use MindSpore.
"""

import json
import sys

from rp2k_lab import create_model  # before MindSpore: sets its environment

import mindspore  # isort: skip
import numpy as np
from mindspore import Tensor


def main(name: str) -> None:
    net = create_model(name, 5, width_multiplier=0.25, depth_multiplier=0.5).set_train(False)
    side = net.backbone.smallest_input
    images = Tensor(np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32))
    eager = net(images).asnumpy()
    parameters = list(net.trainable_params())
    backward = mindspore.value_and_grad(lambda images: net(images).sum(), None, parameters)
    gradients = [g.asnumpy() for g in backward(images)[1]]
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    compiled = net(images).asnumpy()
    result = {
        "difference": float(abs(eager - compiled).max()),
        "largest": float(abs(compiled).max()),
        "gradients": sum(bool(np.isfinite(g).all()) for g in gradients),
        "parameters": len(parameters),
        "mode": "graph" if mindspore.get_context("mode") == mindspore.GRAPH_MODE else "PyNative",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
