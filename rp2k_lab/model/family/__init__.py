"""Options of the networks: `model.name` chooses one; each module is a family, conf/model/ has the defaults.

The cells are in rp2k_lab/model/<family>.py: they import MindSpore, which takes two seconds.
"""

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.options import Count, Rate
from rp2k_lab.model.head import HeadOptions

if TYPE_CHECKING:
    from mindspore import nn

Multiplier = Annotated[float, Field(gt=0, le=4)]
DropPathRate = Annotated[
    Rate, Field(description="stochastic depth: drop probability of the last block; earlier blocks linearly less")
]


def _weights(pretrained: str) -> str:
    return pretrained if pretrained == "imagenet" else os.path.abspath(pretrained)


class Model(HeadOptions):
    """A network.  The wider variants are separate choices, so that run names differ.

    Attributes:
        sources: architecture to its papers and reference implementation.  A choice without one is a variant of another
            (a wider one), and is not listed.
        num_stages: the stem and the stages behind it that `freeze` can name; 0: the backbone does not run in parts.
    """

    if TYPE_CHECKING:
        name: str  # each family declares its own
    sources: ClassVar[Mapping[str, str]] = {}
    num_stages: ClassVar[int] = 0

    width_multiplier: Multiplier = Field(description="factor of the backbone's channels, including final_width")
    depth_multiplier: Multiplier = Field(description="factor of the number of blocks in each stage")
    head_width: Count | None = Field(description="channels of a 1×1 convolution before the classifier; null: none")
    drop_rate: Rate = Field(description="dropout probability before the classifier")
    freeze: str = Field(
        description="last stage that is not trained: stem, stage1, … as many as the network has, or backbone: train "
        "only the head; none: train all layers"
    )
    freeze_views: Count | None = Field(
        description="keep the frozen stages' outputs for this many augmented views of each image: epoch e trains on "
        "view e mod freeze_views; null: keep them only without any augmentation (no crop, flip or color either)"
    )
    pretrained: Annotated[str, Field(min_length=1), AfterValidator(_weights)] | None = Field(
        description="imagenet (efficientnet_lite0, 1 and 2) or a file: .ckpt (task=convert), .pth, .safetensors; "
        "null: none"
    )

    @abstractmethod
    def backbone(self) -> "nn.Cell":
        """Build the backbone: normalized images (batch, 3, height, width) to a feature map (batch, channels, h, w).

        rp2k_lab.model.network.Network says what attributes it needs.
        """

    @classmethod
    def stage_names(cls) -> tuple[str, ...]:
        """Return what `freeze` can name, in order."""
        numbered = (f"stage{i}" for i in range(1, cls.num_stages))
        return (*(("stem", *numbered) if cls.num_stages else ()), "backbone")

    @classmethod
    def stages_up_to(cls, name: str) -> int | None:
        """Return the number of frozen stages for a value of `freeze`; None: the whole backbone."""
        return None if name == "backbone" else cls.stage_names().index(name) + 1

    @classmethod
    def check_freeze(cls, model: str, name: str) -> None:
        """Raise ValueError unless a network has the stage that `freeze` names."""
        names = ("none", *cls.stage_names())
        if name not in names:
            way_out = f"use {', '.join(names[:-1])} or {names[-1]}"
            raise ValueError(f"model.freeze={name}: {model} has no such stage\n{way_out}")

    @property
    def kept_stages(self) -> int | None:
        """Stages of the front whose outputs are kept, see `model.normalize.Front`: with the head's mean if possible."""
        stages = self.stages_up_to(self.freeze)
        return self.num_stages + 1 if stages is None and self.head_width is not None else stages

    @model_validator(mode="after")
    def _check_freeze(self):
        try:
            self.check_freeze(self.name, self.freeze)
        except ValueError as error:
            raise RequestError(str(error)) from None
        if self.freeze_views is not None and self.freeze == "none":
            raise RequestError(
                f"model.freeze_views={self.freeze_views}: model.freeze=none has no frozen stages\n"
                f"add model.freeze={self.stage_names()[-2:][0]}, or leave out model.freeze_views"
            )
        return self

    @classmethod
    def backbone_keys(cls) -> set[str]:
        """Return the keys that are the backbone's: the multipliers, and what the family adds."""
        return cls.model_fields.keys() - {"name", *Model.model_fields} | {"width_multiplier", "depth_multiplier"}

    def arguments(self) -> dict[str, Any]:
        """Return the backbone's keys that are set: all from the command line, those that are passed from Python.

        A backbone therefore has a default for each of its arguments.
        """
        return {key: getattr(self, key) for key in self.backbone_keys() & self.model_fields_set}
