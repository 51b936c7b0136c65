"""A network: the backbone of a model family, and the head that all models share."""

from collections.abc import Callable
from functools import partial

from mindspore import Parameter, Tensor, nn, ops

from rp2k_lab.model.dropout import Dropout, DropPath
from rp2k_lab.model.head import HEADS, HeadName
from rp2k_lab.model.layers import ConvNorm, global_mean

# Added to squared norms, so that a vector of zeros stays one.
_EPS = 1e-12


class CosineClassifier(nn.Dense):
    """Features (batch, width) to scale · cos(features, class weights), float32 (batch, num_classes), without bias.

    Wang et al., NormFace, ACM MM 2017, arXiv 1704.06369, section 3.  It has a dense layer's `weight`, which is
    initialized, loaded and trained like that of a linear classifier, but (num_classes · subcenters, width).

    Args:
        scale: factor of the cosines.
        subcenters: weights of each class; the largest cosine counts (Deng et al., Sub-center ArcFace, ECCV 2020).
    """

    def __init__(self, width: int, num_classes: int, scale: float, subcenters: int = 1):
        super().__init__(width, num_classes * subcenters, has_bias=False)
        self.out_channels, self.scale, self.subcenters = num_classes, scale, subcenters

    def add_flags(self, **flags):
        """Stay in float32 under mixed precision: float16 has no number between 0.9995 and 1."""
        if flags.get("fp16") or flags.get("bf16"):
            flags |= {"fp16": False, "bf16": False, "fp32": True}
        return super().add_flags(**flags)

    def construct(self, x):
        cosine = self.matmul(unit(x.astype("float32")), unit(self.weight))
        if self.subcenters > 1:
            cosine = cosine.reshape(-1, self.out_channels, self.subcenters).max(axis=2)
        return self.scale * cosine


def unit(rows: Tensor) -> Tensor:
    """Return rows (n, width) divided by their Euclidean norms."""
    return rows / ops.sqrt((rows * rows).sum(1, keepdims=True) + _EPS)


def classifier_of(head: HeadName, scale: float | None, subcenters: int | None) -> Callable[[int, int], nn.Dense]:
    """Return what builds a head's classifier: (width, num_classes) to a dense layer or `CosineClassifier`.

    Args:
        scale: factor of the cosines; None: the head's default.
        subcenters: weights of each class; None: the head's default.
    """
    kind = HEADS[head]
    if kind.scale is None:
        return nn.Dense
    return partial(CosineClassifier, scale=scale or kind.scale, subcenters=subcenters or kind.subcenters)


class Head(nn.Cell):
    """Feature map (batch, features, height, width) to logits (batch, num_classes): [widen] → mean → [dropout] → dense.

    Args:
        features: channels of the feature map.
        width: channels of a 1×1 convolution with batch norm and ReLU before the classifier, the control for networks
            with a wider last stage; None: no convolution.
        drop_rate: dropout before the classifier, [0, 1).
        classifier: builds the classifier of (width, num_classes), see `classifier_of`.
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        width: int | None = None,
        drop_rate: float = 0.0,
        classifier: Callable[[int, int], nn.Dense] = nn.Dense,
    ):
        super().__init__()
        self.widen = ConvNorm(features, width, 1) if width is not None else nn.Identity()
        self.dropout = Dropout(drop_rate) if drop_rate else nn.Identity()
        self.fc = classifier(features if width is None else width, num_classes)

    def construct(self, x):
        return self.classify(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the classifier's input, (batch, width), for a feature map."""
        return global_mean(self.widen(x))

    def with_scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, num_classes) and scores (batch,) of an extended network's feature map."""
        return self.fc.with_scores(self.features(x))

    def classify(self, features: Tensor) -> Tensor:
        """Return logits (batch, num_classes) for features (batch, width)."""
        return self.fc(self.dropout(features))


class Network(nn.Cell):
    """Normalized float32 images (batch, 3, height, width) to logits (batch, num_classes).

    Parameter names have no `backbone.` or `head.`: conv1.weight, layer1.0.conv1.weight, …, fc.weight.

    Args:
        backbone: images to a feature map, a `Backbone` if its stages can be frozen.  Its `num_features`: channels;
            `smallest_input`, `input_multiple`: least side and divisor of a side (pixels); `final_norm()`: last batch
            norm before the feature map, or None.
        head: feature map to logits.
        architecture: name in the zoo, for messages.
    """

    def __init__(self, backbone: nn.Cell, head: Head, architecture: str):
        super().__init__(auto_prefix=False)
        self.architecture = architecture
        self.backbone = backbone
        self.head = head

    def construct(self, images):
        return self.head(self.backbone(images))

    def final_norm(self) -> nn.BatchNorm2d | None:
        """Return the last batch norm before the spatial mean, or None."""
        return self.head.widen.bn if isinstance(self.head.widen, ConvNorm) else self.backbone.final_norm()

    def check_input(self, size: tuple[int, int]) -> None:
        """Raise ValueError unless the backbone takes images of this (height, width) (pixels)."""
        least, multiple = self.backbone.smallest_input, self.backbone.input_multiple
        if min(size) < least or any(side % multiple for side in size):
            multiples = f", multiples of {multiple}" if multiple > 1 else ""
            height, width = (max(-(-side // multiple), -(-least // multiple)) * multiple for side in size)
            raise ValueError(
                f"size=[{size[0]},{size[1]}]: {self.architecture} needs sides of at least {least} pixels{multiples}\n"
                f"use size=[{height},{width}]"
            )


def first_stages(net: Network, stages: int | None) -> list[nn.Cell | Parameter]:
    """Return what a number of the backbone's stages consist of; None: all of the backbone."""
    if stages is None or stages > net.backbone.num_stages:
        return [net.backbone]
    return [each for part in net.backbone.parts()[:stages] for each in part]


def freeze(part: nn.Cell | Parameter) -> None:
    """Freeze the parameters of a part of a network, its running statistics and its stochastic depth.

    Batch norms normalize with their running statistics without updating them; stochastic depth drops nothing.
    """
    if isinstance(part, Parameter):
        part.requires_grad = False
        return
    for parameter in part.get_parameters():
        parameter.requires_grad = False
    for _, cell in part.cells_and_names():
        if isinstance(cell, (nn.BatchNorm1d, nn.BatchNorm2d)):
            cell.use_batch_statistics = False
        elif isinstance(cell, DropPath):
            cell.rate = 0.0


def freeze_all_but_last(net: Network, with_norm: bool) -> None:
    """Freeze all but the classifier and, `with_norm`, the last batch norm before the mean: FixRes (arXiv 1906.06423).

    Dropout before the classifier stays.  In training the norm uses the batch's statistics and updates its running ones,
    as in the authors' code (`bn3.train()` of the last block, the rest in evaluation mode).  Its scale and shift are
    trained, as in section 4.2; the authors' code freezes them.

    Raises:
        ValueError: the network has no such norm.
    """
    freeze(net.backbone)
    freeze(net.head.widen)
    if not with_norm:
        return
    norm = net.final_norm()
    if norm is None:
        raise ValueError(f"{net.architecture} has no batch norm before its classifier")
    norm.use_batch_statistics = None
    norm.gamma.requires_grad = norm.beta.requires_grad = True
