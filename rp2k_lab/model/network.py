"""A network: the backbone of a model family, and the head that all models share."""

from mindspore import Tensor, nn

from rp2k_lab.model.dropout import Dropout, DropPath
from rp2k_lab.model.layers import ConvNorm, global_mean


class Head(nn.Cell):
    """Feature map (batch, features, height, width) to logits (batch, num_classes): [widen] → mean → [dropout] → dense.

    Args:
        features: channels of the feature map.
        width: channels of a 1×1 convolution with batch norm and ReLU before the classifier, the control for networks
            with a wider last stage; None: no convolution.
        drop_rate: dropout before the classifier, [0, 1).
    """

    def __init__(self, features: int, num_classes: int, width: int | None = None, drop_rate: float = 0.0):
        super().__init__()
        self.widen = ConvNorm(features, width, 1) if width is not None else nn.Identity()
        self.dropout = Dropout(drop_rate) if drop_rate else nn.Identity()
        self.fc = nn.Dense(features if width is None else width, num_classes)

    def construct(self, x):
        return self.classify(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the classifier's input, (batch, width), for a feature map."""
        return global_mean(self.widen(x))

    def classify(self, features: Tensor) -> Tensor:
        """Return logits (batch, num_classes) for features (batch, width)."""
        return self.fc(self.dropout(features))


class Network(nn.Cell):
    """Normalized float32 images (batch, 3, height, width) to logits (batch, num_classes).

    Parameter names have no `backbone.` or `head.`: conv1.weight, layer1.0.conv1.weight, …, fc.weight.

    Args:
        backbone: images to a feature map.  Its `num_features`: channels; `smallest_input`, `input_multiple`: least side
            and divisor of a side (pixels); `final_norm()`: last batch norm before the feature map, or None.
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
            raise ValueError(
                f"size=[{size[0]},{size[1]}]: {self.architecture} needs sides of at least {least} pixels{multiples}"
            )


def freeze_backbone(net: Network) -> None:
    """Freeze the backbone; see `freeze`."""
    freeze(net.backbone)


def freeze(part: nn.Cell) -> None:
    """Freeze the parameters of a part of a network, its running statistics and its stochastic depth.

    Batch norms normalize with their running statistics without updating them; stochastic depth drops nothing.
    """
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
