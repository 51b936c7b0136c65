"""Options of the head that all networks share: the classifier, and the margin of its loss.

The cells are in rp2k_lab/model/network.py, the margins in rp2k_lab/train/loss_cells.py: they import MindSpore.
"""

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.options import Count, Group, NonNegativeFloat, PositiveFloat

HeadName = Literal["linear", "cosine", "arcface", "cosface", "subcenter_arcface"]


class HeadKind(NamedTuple):
    """A kind of head with its defaults.

    Attributes:
        scale: factor of the cosines; None: a dense layer with bias, no cosines.
        margin: radians, or a difference of cosines; None: no margin.
        margin_on: what the margin changes: angle or cosine.
        subcenters: weights of each class.
    """

    scale: float | None = None
    margin: float | None = None
    margin_on: Literal["angle", "cosine"] | None = None
    subcenters: int = 1


HEADS: dict[HeadName, HeadKind] = {
    "linear": HeadKind(),
    # With CosFace's bound (section 3.3), 30 lets the label of 10⁴ classes reach a probability of 1 - 10⁻⁹.
    "cosine": HeadKind(scale=30.0),
    "arcface": HeadKind(64.0, 0.5, "angle"),
    "cosface": HeadKind(64.0, 0.35, "cosine"),
    "subcenter_arcface": HeadKind(64.0, 0.5, "angle", 3),
}


class HeadOptions(Group):
    """The keys of the head, for the option classes of networks."""

    head: HeadName = Field(
        description="classifier; linear: dense layer; cosine: of features and class weights (arXiv 1704.06369); with a "
        "margin in training: arcface (1801.07698), cosface (1801.09414), subcenter_arcface (ECCV 2020)"
    )
    head_scale: PositiveFloat | None = Field(
        description="factor of the cosines; null: 30 for cosine, 64 for the heads with a margin"
    )
    head_margin: Annotated[float, Field(ge=0, lt=math.pi)] | None = Field(
        description="margin; null: arcface and subcenter_arcface 0.5 [radians], cosface 0.35 [difference of cosines]"
    )
    head_margin_schedule: Literal["constant", "linear", "cosine"] = Field(
        description="constant: the same margin in all steps; linear, cosine: it rises from 0 over `head_margin_epochs`"
    )
    head_margin_epochs: NonNegativeFloat = Field(
        description="epochs until the margin is reached, may be fractional; 0 with head_margin_schedule=constant"
    )
    head_subcenters: Count | None = Field(
        description="weights of each class in subcenter_arcface, of which an image's nearest counts; null: 3"
    )

    @property
    def logit_scale(self) -> float | None:
        """The factor of the cosines; None for a linear head."""
        return self.head_scale or HEADS[self.head].scale

    @property
    def final_margin(self) -> float | None:
        """The final margin; None for a head without."""
        return HEADS[self.head].margin if self.head_margin is None else self.head_margin

    @model_validator(mode="after")
    def _check_head(self):
        kind, schedule, epochs = HEADS[self.head], self.head_margin_schedule, self.head_margin_epochs
        if self.head_scale is not None and kind.scale is None:
            raise RequestError(
                f"model.head_scale={self.head_scale:g}: model.head={self.head} has no cosines to scale\n"
                "use model.head=cosine, or leave out model.head_scale"
            )
        if self.head_subcenters is not None and self.head != "subcenter_arcface":
            raise RequestError(
                f"model.head_subcenters={self.head_subcenters}: model.head={self.head} has one weight a class\n"
                "use model.head=subcenter_arcface, or leave out model.head_subcenters"
            )
        if kind.margin is None and (self.head_margin is not None or schedule != "constant" or epochs):
            raise RequestError(
                f"model.head={self.head}: has no margin\n"
                "use model.head=arcface, cosface or subcenter_arcface, or leave out model.head_margin…"
            )
        if (schedule == "constant") != (epochs == 0):
            way_out = "add model.head_margin_schedule=linear" if epochs else "add model.head_margin_epochs=<epochs>"
            raise RequestError(
                f"model.head_margin_schedule={schedule}: conflicts with model.head_margin_epochs={epochs:g}\n{way_out}"
            )
        return self
