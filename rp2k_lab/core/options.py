"""Types of configuration keys, for the option classes of all choices.

An option class is a `Group` with a key `name`, the names of the choices that it describes.  It states every key with
its type, range and description; the defaults are in `conf/<group>/<name>.yaml`.  Its method `build` makes the object
that the choice stands for, and imports what is slow to import.
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Side = Annotated[int, Field(ge=32, le=2048)]
# A relative path starts at the shell's folder, ~ is the home folder.
AbsolutePath = Annotated[
    Path, Field(strict=False), AfterValidator(lambda path: Path(os.path.abspath(os.path.expanduser(path))))
]


class Group(BaseModel):
    """A frozen group of keys; an unknown key is an error."""

    # Strict: "40" is no integer, true is no number.  Tuples and paths have strict=False: YAML has only lists and text.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())
