"""The model zoo: `create_model(name, num_classes, **options)`, `list_models()`, `load_torch_weights(net, state)`.

A name is a backbone with arguments; `conf/model/<name>.yaml` makes the arguments options of the command line.
"""

from functools import partial
from typing import Any, Literal

from mindspore.nn.utils import no_init_parameters

from rp2k_lab.model.attention import BAM, CBAM, SqueezeExcitation
from rp2k_lab.model.dropout import seed_masks
from rp2k_lab.model.efficientnet import EfficientNet
from rp2k_lab.model.inception_resnet_v2 import InceptionResNetV2
from rp2k_lab.model.init import initialize
from rp2k_lab.model.network import Head, Network, freeze_backbone
from rp2k_lab.model.normalize import Normalize, WithPreprocessing
from rp2k_lab.model.resnet import ResNet
from rp2k_lab.model.scaling import check_multipliers
from rp2k_lab.model.swin import Swin
from rp2k_lab.model.weights.torch_names import load_torch_weights

_MODELS = {
    "efficientnet_b0": EfficientNet,
    "efficientnet_lite0": partial(EfficientNet, lite=True),
    "inception_resnet_v2": InceptionResNetV2,
    "resnet18": partial(ResNet, depth=18),
    "resnet50": partial(ResNet, depth=50),
    "resnet101": partial(ResNet, depth=101),
    "resnet50_bam": partial(ResNet, depth=50, stage_attention=BAM),
    "resnet50_cbam": partial(ResNet, depth=50, attention=CBAM),
    "seresnet50": partial(ResNet, depth=50, attention=SqueezeExcitation),
    "seresnext50": partial(ResNet, depth=50, attention=SqueezeExcitation, cardinality=32, base_width=4),
    "swin_tiny": Swin,
}
# The contest entry's "wider" variants (published.md, table 4): final_width 4096.
_WIDER = {f"{name}_wider": name for name in ("inception_resnet_v2", "resnet50_bam", "seresnext50")}


def list_models() -> list[str]:
    """Return the names of the architectures, sorted."""
    return sorted(_MODELS)


def create_model(
    name: str,
    num_classes: int,
    seed: int = 0,
    head_width: int | None = None,
    drop_rate: float = 0.0,
    freeze: Literal["none", "backbone"] = "none",
    **options: Any,
) -> Network:
    """Build a network: normalized float32 NCHW images to logits (batch, num_classes), weights drawn from `seed`.

    Args:
        name: one of `list_models()`, or `inception_resnet_v2_wider`, `resnet50_bam_wider`, `seresnext50_wider`, which
            set final_width to 4096.
        head_width: output channels of a 1×1 convolution before the classifier; None: no convolution.
        drop_rate: dropout before the classifier, [0, 1).
        freeze: "backbone": train only the head.
        options: the backbone's arguments: `final_width` (ResNet family, Inception-ResNet-v2), `cardinality` and
            `base_width` (ResNet family), `drop_path_rate` (all but Inception-ResNet-v2, whose reference has none),
            `width_multiplier` and `depth_multiplier` (all; (0, 4]).

    Raises:
        ValueError: unknown name or invalid option value.
    """
    if name in _WIDER:
        name, options = _WIDER[name], {"final_width": 4096} | options
    if name not in _MODELS:
        raise ValueError(f"model={name}: no such model\nuse one of {', '.join(list_models())}")
    if freeze not in ("none", "backbone"):
        raise ValueError(f"model.freeze={freeze}: no such choice\nuse none or backbone")
    check_multipliers(**options)
    with no_init_parameters():  # otherwise every layer draws weights that `initialize` replaces
        backbone = _MODELS[name](**options)
        net = Network(backbone, Head(backbone.num_features, num_classes, head_width, drop_rate), name)
    initialize(net, seed)
    net.init_parameters_data()
    seed_masks(net, seed)
    if freeze == "backbone":
        freeze_backbone(net)
    return net


__all__ = ["Network", "Normalize", "WithPreprocessing", "create_model", "list_models", "load_torch_weights"]
