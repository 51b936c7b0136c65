"""The model zoo: `create_model(name, num_classes, **options)` and `list_models()`.

A name is a builder with arguments; `conf/model/<name>.yaml` shows the same arguments to the command line.
"""

from functools import partial

from rp2k_lab.model.attention import SqueezeExcitation
from rp2k_lab.model.initialise import initialise
from rp2k_lab.model.preprocess import Normalise, WithPreprocessing
from rp2k_lab.model.resnet import ResNet

_MODELS = {
    "resnet18": partial(ResNet, depth=18),
    "seresnext50": partial(ResNet, depth=50, attention=SqueezeExcitation, cardinality=32, base_width=4),
}


def list_models() -> list[str]:
    """The names that `create_model` and `model=` take."""
    return sorted(_MODELS)


def create_model(name: str, num_classes: int, seed: int = 0, **options):
    """Build a network: normalised float32 NCHW images to logits (batch, num_classes), weights drawn from `seed`.

    Args:
        name: one of `list_models()`.
        options: the builder's arguments, for the ResNet family `cardinality`, `base_width`, `final_width`.

    Raises:
        ValueError: an unknown name, or an option value that the network cannot have.
    """
    if name not in _MODELS:
        raise ValueError(f"model={name}: no such model; choose one of {', '.join(list_models())}")
    net = _MODELS[name](num_classes, **options)
    initialise(net, seed)
    return net


__all__ = ["Normalise", "WithPreprocessing", "create_model", "list_models"]
