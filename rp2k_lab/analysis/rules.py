"""The thresholds of the rules that `causes` sorts errors by, as keys of `task=errors`."""

from typing import Annotated

from pydantic import BaseModel, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Rules(BaseModel):
    """What makes an error one of a cause."""

    look_alike_cosine: Annotated[float, Field(ge=-1, le=1)] = Field(
        description="look_alike: cosine of the classes' mean features, less the mean of all classes, at least"
    )
    look_alike_each_way: Count = Field(description="look_alike: photos of each class taken for the other, at least")
    suspicion: Share = Field(description="suspected_label: suspicion of the given label, at least")
    tail_images: Count = Field(description="tail: training photos of the true class, fewer than")
    dark: Share = Field(description="photo: brightness below")
    bright: Share = Field(description="photo: brightness above")
    blurred: Annotated[float, Field(ge=0)] = Field(description="photo: sharpness below")
    glare: Share = Field(description="photo: share of blown-out pixels above")
    ratio: Annotated[float, Field(ge=1)] = Field(description="photo: height / width, or its inverse, above")
