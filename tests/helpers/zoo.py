"""Model names for parametrized tests, and networks without drawn weights."""

import contextlib

import pytest
from mindspore.nn.utils import no_init_parameters

from rp2k_lab.model import list_models, zoo

# Tests of seconds per model: make test has these, make soak the others.
_OFTEN = ("efficientnet_b0", "resnet18")
SLOW = [pytest.param(name, marks=[] if name in _OFTEN else pytest.mark.soak) for name in list_models()]


@contextlib.contextmanager
def no_weights():
    """Make `create_model` skip the drawing of weights, which takes nine tenths of its time."""
    with pytest.MonkeyPatch.context() as patch, no_init_parameters():
        patch.setattr(zoo, "initialize", lambda net, seed: None)
        yield
