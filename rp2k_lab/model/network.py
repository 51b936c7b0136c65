"""A network: a backbone that every family builds for itself, and one head for all."""

from mindspore import nn

from rp2k_lab.model.layers import ConvNorm, global_mean
from rp2k_lab.model.stochastic import Dropout, DropPath


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
        return self.fc(self.dropout(global_mean(self.widen(x))))


class Network(nn.Cell):
    """Normalised float32 images (batch, 3, height, width) to logits (batch, num_classes).

    Parameters are named without `backbone.` and `head.`: conv1.weight, layer1.0.conv1.weight, …, fc.weight.

    Args:
        backbone: images to a feature map; has `num_features`, its channels, and `smallest_input` and `input_multiple`:
            what a side must at least have and be a multiple of (pixels).
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

    def check_input(self, size: tuple[int, int]) -> None:
        """Raise ValueError unless the backbone takes images of this (height, width)."""
        least, multiple = self.backbone.smallest_input, self.backbone.input_multiple
        if min(size) < least or any(side % multiple for side in size):
            divided = f", divided by {multiple}" if multiple > 1 else ""
            raise ValueError(
                f"size=[{size[0]},{size[1]}]: {self.architecture} needs sides of at least {least} pixels{divided}"
            )


def freeze_backbone(net: Network) -> None:
    """Fix every parameter of the backbone, and whatever else training would change or draw in it.

    Batch norms normalise with their running statistics and no longer update them; stochastic depth lets all pass.
    """
    for parameter in net.backbone.get_parameters():
        parameter.requires_grad = False
    for _, cell in net.backbone.cells_and_names():
        if isinstance(cell, (nn.BatchNorm1d, nn.BatchNorm2d)):
            cell.use_batch_statistics = False
        elif isinstance(cell, DropPath):
            cell.rate = 0.0
