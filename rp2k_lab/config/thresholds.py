"""The thresholds of the rules that `causes` sorts errors by, as keys of `task=errors`."""

from typing import Annotated

from pydantic import BaseModel, Field

Share = Annotated[float, Field(ge=0, le=1)]
Natural = Annotated[int, Field(ge=0)]


class Rules(BaseModel):
    """What makes an error one of a cause."""

    look_alike_cosine: Annotated[float, Field(ge=-1, le=1)] = Field(
        description="look_alike: cosine of the classes' mean features, less the mean of all classes, at least"
    )
    look_alike_each_way: Natural = Field(
        description="look_alike: photos of each class taken for the other, at least; 0: near is enough"
    )
    suspicion: Share = Field(
        description="suspected_label: suspicion of the given label where another is suggested, at least"
    )
    tail_images: Natural | None = Field(
        description="tail: training photos of the true class, fewer than; null: a class of the group tail"
    )
    exposure: Annotated[float, Field(ge=1)] = Field(
        description="photo: times as bright or as dark as its class's training photos, more than"
    )
    blurred: Share = Field(description="photo: sharpness below this share of that of its class's training photos")
    glare: Share = Field(description="photo: blown-out pixels, a share more than in its class's training photos, above")
    ratio: Annotated[float, Field(ge=1)] = Field(description="photo: height / width, or its inverse, above")
