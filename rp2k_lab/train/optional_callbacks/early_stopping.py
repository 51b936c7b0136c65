"""Early stopping: end a training whose metric on val no longer improves."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rp2k_lab.core.options import Count, NonNegativeFloat
from rp2k_lab.plugins import register
from rp2k_lab.train.optional_callbacks import CallbackContext, CallbackOptions

if TYPE_CHECKING:
    from rp2k_lab.train.callbacks.base import Callback


@register("callback")
class EarlyStopping(CallbackOptions):
    """Stop after `patience` epochs without a better value (Prechelt, "Early stopping – but when?", 1998)."""

    name: Literal["early_stopping"]
    metric: Annotated[str, Field(pattern=r"^(val|train)/\w+$")] = Field(
        description="metric to watch, as in MLflow: val/top1, val/macro_top1, … or train/loss, which is minimized"
    )
    patience: Count = Field(description="consecutive epochs without improvement that end the training")
    min_delta: NonNegativeFloat = Field(description="smallest change that counts as an improvement")
    min_epochs: Count = Field(description="epochs that are trained in any case")

    def build(self, context: CallbackContext) -> "Callback":
        """Return the callback."""
        from rp2k_lab.train.callbacks.early_stopping import EarlyStopping

        return EarlyStopping(self, context.tracker, context.workers)
