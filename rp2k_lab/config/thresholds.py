"""Thresholds of the rules that assign causes to errors (rp2k_lab/analysis/causes.py), as keys of `task=errors`."""

from typing import Annotated

from pydantic import BaseModel, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Natural = Annotated[int, Field(ge=0)]


class Rules(BaseModel):
    """Conditions for each cause of an error."""

    look_alike_cosine: Annotated[float, Field(ge=-1, le=1)] = Field(
        description="look_alike: smallest cosine of the two classes' mean features, after subtracting the overall mean"
    )
    look_alike_each_way: Natural = Field(
        description="look_alike: smallest number of images of each class predicted as the other; 0: no such condition"
    )
    look_alike_one_way: Fraction = Field(
        description="look_alike: or this fraction of a class's images, and at least 3, are predicted as the other; "
        "0: no such rule"
    )
    suspicion: Fraction = Field(
        description="suspected_label: smallest suspicion of a label for which another one is suggested"
    )
    tail_images: Natural | None = Field(
        description="tail: the true class has fewer training images; null: it belongs to the group tail"
    )
    exposure: Annotated[float, Field(ge=1)] = Field(
        description="photo: more than this factor brighter or darker than the median training image of its class"
    )
    blurred: Fraction = Field(
        description="photo: sharpness below this fraction of the median of its class's training images"
    )
    glare: Fraction = Field(
        description="photo: blown-out pixels, as a fraction, exceed the median of its class's training images by this"
    )
    ratio: Annotated[float, Field(ge=1)] = Field(description="photo: height / width, or its inverse, above this")
    photo_lost: Fraction = Field(
        description="photo: an exposure or blur counts if it loses at least this fraction of the recognized photos of "
        "the class; 0: whatever it loses"
    )
