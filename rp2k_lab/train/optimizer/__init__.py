"""Options of the optimizers: `optimizer.name` chooses one; each module is a choice, conf/optimizer/ has the defaults.

Accumulation, clipping, averaged weights and parameter groups are the same for all: rp2k_lab/train/updates.py, which
imports MindSpore.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rp2k_lab.core.options import Count, Group, NonNegativeFloat, PositiveFloat, Rate

if TYPE_CHECKING:
    from rp2k_lab.train.updates import Rule

Betas = Annotated[tuple[Rate, Rate], Field(strict=False)]


class Optimizer(Group):
    """An optimizer."""

    if TYPE_CHECKING:
        name: str  # each choice declares its own

    lr: PositiveFloat = Field(description="peak learning rate")
    weight_decay: NonNegativeFloat = Field(
        description="decay of weights of convolutions and dense layers; norms, biases and position tables have none"
    )
    lr_batch_size: Count | None = Field(
        description="images per update for which lr is given; lr grows with batch_size · accumulate_steps; null: no"
    )
    accumulate_steps: Count = Field(description="number of batches whose mean gradient makes one update")
    clip_norm: PositiveFloat | None = Field(
        description="largest L2 norm of the whole gradient of an update; null: no clipping"
    )
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        description="decay of the moving average of weights, for evaluation and best checkpoint; null: no average"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        description="factor of the learning rate from each layer to the one before it; null: none"
    )
    backbone_factor: PositiveFloat = Field(
        description="learning rate of the backbone / learning rate of the head (classifier, widening convolution)"
    )

    @abstractmethod
    def rule(self) -> "Rule":
        """Return what an update does with a parameter, its gradient and its state."""
