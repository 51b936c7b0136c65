"""What can be asked of the synthetic shelf, and the name under which the answer is found again."""

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Of the drawing code.  Raise it with every change that draws other bytes from the same options: the set is then drawn
# again under another name.  tests/dataset/test_shelf.py fails where that was forgotten.
VERSION = 1

Share = Annotated[float, Field(ge=0.0, le=1.0)]
# Copies need originals to be copied from, hence at most half.
CopyShare = Annotated[float, Field(ge=0.0, le=0.5)]
Split = Literal["train", "val", "test"]


class ShelfOptions(BaseModel):
    """Options of one synthetic set. Equal options (and equal code) give equal bytes.

    Values are not coerced: "40" is no integer and True is no count. Lists are taken for tuples, since YAML
    has no tuples. Out of range or unknown: pydantic.ValidationError, which is a ValueError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of everything drawn.")
    classes: int = Field(40, ge=2, le=4000, description="Classes, `others` included; RP2K has 2388.")

    train_images: int = Field(4000, ge=1, le=2_000_000, description="Images in train/; RP2K about 342,000.")
    val_images: int = Field(500, ge=0, le=2_000_000, description="Images in val/; 0: no such folder, as RP2K.")
    test_images: int = Field(2000, ge=1, le=2_000_000, description="Images in test/; RP2K 39,457.")
    min_train_images: int = Field(30, ge=1, le=1000, description="Least images of a class in train.")
    min_val_images: int = Field(1, ge=1, le=1000, description="Least images of a class in val.")
    min_test_images: int = Field(4, ge=1, le=1000, description="Least images of a class in test.")
    others_fraction: float = Field(0.03, ge=0.0, le=0.5, description="Share of the catch-all class; 0: none.")

    size_cue: int = Field(1, ge=0, le=1, description="1: some products' sizes differ only in height/width.")
    size_fraction: Share = Field(0.4, description="Share of classes in a size group, when size_cue=1.")
    multipack_class_fraction: Share = Field(0.25, description="Share of products also sold as multi-packs.")
    multipack_image_fraction: Share = Field(0.3, description="Share of those products' images showing one.")

    angle_fraction: Share = Field(0.35, description="Share of images taken at an angle.")
    blur_fraction: Share = Field(0.25, description="Share of blurred images.")
    reflection_fraction: Share = Field(0.25, description="Share of images with a reflection.")
    brightness_fraction: Share = Field(0.35, description="Share of under- or over-exposed images.")
    color_cast_fraction: Share = Field(0.3, description="Share of images with a color cast.")
    neighbor_fraction: Share = Field(0.3, description="Share of images showing a neighbor's edge.")

    jpeg_quality: tuple[int, int] = Field((60, 95), strict=False, description="Range of the JPEG quality.")
    png_fraction: Share = Field(0.05, description="Share of PNG files, named like screenshots.")
    side_px: tuple[int, int] = Field(
        (64, 96), strict=False, description="Range of the width in pixels at height/width 2.25; else more pixels."
    )

    label_noise: float = Field(0.0, ge=0.0, le=0.5, description="Share of wrong labels in noisy_splits.")
    look_alike_noise_fraction: Share = Field(0.8, description="Share of the wrong labels naming a look-alike.")
    noisy_splits: tuple[Split, ...] = Field(("train",), strict=False, description="Splits with wrong labels.")

    exact_duplicates: CopyShare = Field(0.0, description="Share of train: same bytes as another train image.")
    near_duplicates: CopyShare = Field(0.0, description="Share of train: near copy of another train image.")
    exact_leaks: CopyShare = Field(0.0, description="Share of test: same bytes as a train image.")
    near_leaks: CopyShare = Field(0.0, description="Share of test: near copy of a train image.")

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> "ShelfOptions":
        for name, least, most in (("jpeg_quality", 1, 100), ("side_px", 32, 1024)):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(f"{name}={low},{high}: wanted {least} <= low <= high <= {most}")
        return self

    def fingerprint(self) -> str:
        """Short hexadecimal name of the set: options, `VERSION`, OpenCV's version."""
        # Here, so that checking a configuration need not load OpenCV.
        import cv2

        text = f"{self.model_dump_json()} {VERSION} {cv2.__version__}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]
