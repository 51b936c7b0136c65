"""Run `run.py model=swin_tiny …` with a small network instead, which compiles in a second and has no batch norm."""

import runpy
import sys

from rp2k_lab import PROJECT  # before MindSpore: sets its environment
from rp2k_lab.model.family.swin import Swin

# isort: split
from mindspore import nn


class Small(nn.Cell):
    """One convolution."""

    num_features, smallest_input, input_multiple = 8, 32, 1

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8, pad_mode="valid", has_bias=True)
        self.relu = nn.ReLU()

    def construct(self, images):
        return self.relu(self.conv(images))


Swin.backbone = lambda self: Small()
sys.argv[0] = str(PROJECT / "run.py")
runpy.run_path(sys.argv[0], run_name="__main__")
