"""The model zoo: a name is a backbone with arguments; `conf/model/<name>.yaml` makes them options."""

from typing import Any, cast

import mindspore
from mindspore.nn.utils import no_init_parameters

from rp2k_lab.model.dropout import seed_masks
from rp2k_lab.model.family import Model
from rp2k_lab.model.first_operation import absorb_first_failure
from rp2k_lab.model.head import HEADS, HeadName
from rp2k_lab.model.init import initialize
from rp2k_lab.model.network import Head, Network, classifier_of, first_stages
from rp2k_lab.model.network import freeze as freeze_part
from rp2k_lab.model.scaling import check_multipliers
from rp2k_lab.plugins import options_of


def families() -> dict[str, type[Model]]:
    """Return the family of each name: our own, and those of installed packages.

    Raises:
        RequestError: a package cannot be imported, or two register the same name.
    """
    return cast(dict[str, type[Model]], options_of("model"))


def list_models() -> list[str]:
    """Return the names of the architectures, sorted; a family without sources has no variants."""
    return sorted(name for name, family in families().items() if name in family.sources or not family.sources)


def create_model(
    name: str,
    num_classes: int,
    seed: int = 0,
    head_width: int | None = None,
    drop_rate: float = 0.0,
    freeze: str = "none",
    head: HeadName = "linear",
    head_scale: float | None = None,
    head_subcenters: int | None = None,
    **options: Any,
) -> Network:
    """Build a network: normalized float32 NCHW images to logits (batch, num_classes), weights drawn from `seed`.

    Args:
        name: one of `list_models()`, or `inception_resnet_v2_wider`, `resnet50_bam_wider`, `seresnext50_wider`, which
            set final_width to 4096, or `efficientnet_lite1`, `efficientnet_lite2`.
        head_width: output channels of a 1×1 convolution before the classifier; None: no convolution.
        drop_rate: dropout before the classifier, [0, 1).
        freeze: none, or the last frozen stage: stem, stage1, … (see the family's `num_stages`), or backbone.
        head: linear, or scaled cosines (cosine, arcface, cosface, subcenter_arcface): margins act in the loss alone.
        head_scale: factor of the cosines; None: the head's default.
        head_subcenters: weights of each class; None: the head's default.
        options: the backbone's arguments: `final_width` (ResNet family, Inception-ResNet-v2), `cardinality` and
            `base_width` (ResNet family), `patch` and `layer_scale` (ViT), `drop_path_rate` (all but
            Inception-ResNet-v2, whose reference has none), `width_multiplier` and `depth_multiplier` (all; (0, 4]).

    Raises:
        ValueError: unknown name or invalid option value.
        TypeError: an option that the backbone does not have.
    """
    family = families().get(name)
    if family is None:
        raise ValueError(f"model={name}: no such model\nuse one of {', '.join(list_models())}")
    family.check_freeze(name, freeze)
    if head not in HEADS:
        raise ValueError(f"model.head={head}: no such head\nuse one of {', '.join(HEADS)}")
    if unknown := options.keys() - family.backbone_keys():
        raise TypeError(f"{name} has no option {min(unknown)}\nuse {', '.join(sorted(family.backbone_keys()))}")
    check_multipliers(**options)
    if mindspore.get_context("mode") == mindspore.PYNATIVE_MODE:  # with msrun, it would keep a rank from signing off
        absorb_first_failure()
    with no_init_parameters():  # otherwise every layer draws weights that `initialize` replaces
        multipliers = {"width_multiplier": 1.0, "depth_multiplier": 1.0}
        backbone = family.model_construct(None, name=name, **(multipliers | options)).backbone()
        classifier = classifier_of(head, head_scale, head_subcenters)
        net = Network(backbone, Head(backbone.num_features, num_classes, head_width, drop_rate, classifier), name)
    initialize(net, seed)
    net.init_parameters_data()
    seed_masks(net, seed)
    if freeze != "none":
        for part in first_stages(net, family.stages_up_to(freeze)):
            freeze_part(part)
    return net
