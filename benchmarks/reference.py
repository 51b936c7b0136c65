"""The reference implementations in PyTorch.

Needs the `parity` extra, and for BAM and CBAM a clone of https://github.com/Jongchan/attention-module.
"""

import sys

import timm
from torch import nn

TIMM = {
    "convnext_tiny": "convnext_tiny",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "inception_resnet_v2": "inception_resnet_v2",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "seresnet50": "seresnet50",
    "seresnext50": "seresnext50_32x4d",
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "vit_small": "vit_small_patch16_224",
    "vit_small_dinov2": "vit_small_patch14_dinov2",
}
ATTENTION_MODULE = {"resnet50_bam": "BAM", "resnet50_cbam": "CBAM"}


def build_reference(name: str, num_classes: int, size: tuple[int, int], attention_module: str | None) -> nn.Module:
    """Return the reference of a model, with its initial weights and without stochastic depth.

    Args:
        size: input (height, width) (pixels).
        attention_module: folder of the clone, for BAM and CBAM.
    """
    if name in TIMM:
        options = {"img_size": size, "drop_path_rate": 0.0} if name == "swin_tiny" else {}
        options |= {"dynamic_img_size": True} if name.startswith("vit_") else {}  # one table of positions, any size
        return timm.create_model(TIMM[name], num_classes=num_classes, **options)
    if attention_module is None:
        raise SystemExit(f"{name}: its reference is in Jongchan/attention-module\nuse --attention-module FOLDER")
    if attention_module not in sys.path:
        sys.path.insert(0, attention_module)
    from MODELS import bam, model_resnet

    bam.gate_activation = None  # its constructor uses this undefined name
    net = model_resnet.ResidualNet("ImageNet", 50, num_classes, ATTENTION_MODULE[name])
    if size != (224, 224):
        net.avgpool = nn.AdaptiveAvgPool2d(1)  # its AvgPool2d(7) needs 224 pixels, where both are equal
    return net
