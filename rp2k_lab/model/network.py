"""A network: a backbone that every family builds for itself, and one head for all."""

from mindspore import nn

from rp2k_lab.model.dropout import Dropout, DropPath
from rp2k_lab.model.layers import ConvNorm, global_mean


class Head(nn.Cell):
    """Feature map (batch, features, height, width) to logits (batch, num_classes): [widen] → mean → [dropout] → dense.

    Args:
        features: channels of the map.
        width: features before the classifier by a 1×1 convolution with batch norm and ReLU, the control for networks
            whose last stage is wider; None: none.
        drop_rate: dropout before the classifier.
    """

    def __init__(self, features: int, num_classes: int, width: int | None = None, drop_rate: float = 0.0):
        super().__init__()
        self.widen = ConvNorm(features, width, 1) if width is not None else nn.Identity()
        self.dropout = Dropout(drop_rate) if drop_rate else nn.Identity()
        self.fc = nn.Dense(features if width is None else width, num_classes)

    def construct(self, x):
        return self.classify(self.features(x))

    def features(self, x):
        """Feature map to the classifier's input, (batch, width)."""
        return global_mean(self.widen(x))

    def classify(self, features):
        """(batch, width) to logits (batch, num_classes)."""
        return self.fc(self.dropout(features))


class Network(nn.Cell):
    """Normalized float32 images (batch, 3, height, width) to logits (batch, num_classes).

    Parameters are named without `backbone.` and `head.`: conv1.weight, layer1.0.conv1.weight, …, fc.weight.

    Args:
        backbone: images to a feature map; has `num_features`, its channels, `smallest_input` and `input_multiple`: what
            a side must at least have and be a multiple of (pixels), and `final_norm()`: the last batch norm that the
            map has passed, or None.
        head: the feature map to logits.
        architecture: its name in the zoo, for messages.
    """

    def __init__(self, backbone: nn.Cell, head: Head, architecture: str):
        super().__init__(auto_prefix=False)
        self.architecture = architecture
        self.backbone = backbone
        self.head = head

    def construct(self, images):
        return self.head(self.backbone(images))

    def final_norm(self) -> nn.BatchNorm2d | None:
        """The last batch norm that the feature map passes before its mean, or None."""
        return self.head.widen.bn if isinstance(self.head.widen, ConvNorm) else self.backbone.final_norm()

    def check_input(self, size: tuple[int, int]) -> None:
        """Raise ValueError unless the backbone takes images of this (height, width)."""
        least, multiple = self.backbone.smallest_input, self.backbone.input_multiple
        if min(size) < least or any(side % multiple for side in size):
            divided = f", divided by {multiple}" if multiple > 1 else ""
            raise ValueError(
                f"size=[{size[0]},{size[1]}]: {self.architecture} needs sides of at least {least} pixels{divided}"
            )


def freeze_backbone(net: Network) -> None:
    """Fix every parameter of the backbone, and whatever else training would change or draw in it."""
    freeze(net.backbone)


def freeze(part: nn.Cell) -> None:
    """Fix every parameter of a part of a network, and whatever else training would change or draw in it.

    Batch norms normalize with their running statistics and no longer update them; stochastic depth lets all pass.
    """
    for parameter in part.get_parameters():
        parameter.requires_grad = False
    for _, cell in part.cells_and_names():
        if isinstance(cell, (nn.BatchNorm1d, nn.BatchNorm2d)):
            cell.use_batch_statistics = False
        elif isinstance(cell, DropPath):
            cell.rate = 0.0


def freeze_all_but_last(net: Network, with_norm: bool) -> None:
    """Fix all but the classifier and, on request, the last batch norm before the mean: FixRes (arXiv 1906.06423, 4.2).

    Dropout before the classifier stays.  In training that norm normalizes by the batch and moves its running
    statistics, as in the authors' code (`bn3.train()` of the last block, in a network that is otherwise in evaluation
    mode).  That code keeps the norm's scale and shift; here they are trained, as section 4.2 has it.

    Raises:
        ValueError: there is no such norm.
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
