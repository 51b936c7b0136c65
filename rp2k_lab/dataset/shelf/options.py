"""The options of the synthetic shelf, and the fingerprint that names a set."""

import hashlib
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# The version of the drawing code.  Raise it with every change that draws other bytes from the same options: the set is
# then drawn again under another name.  tests/dataset/test_shelf.py fails if you forget it.
VERSION = 2

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
# At most half, since copies need originals.
CopyFraction = Annotated[float, Field(ge=0.0, le=0.5)]
Split = Literal["train", "val", "test"]


class ShelfOptions(BaseModel):
    """Options of a synthetic set.  Equal options and equal code give equal bytes.

    Values are not coerced: "40" is no integer and True is no count.  Lists are accepted for tuples, since YAML has no
    tuples.

    Raises:
        pydantic.ValidationError: a ValueError; a value is out of range, or an option unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    if TYPE_CHECKING:

        def __hash__(self) -> int: ...  # by frozen

    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of everything drawn.")
    classes: int = Field(40, ge=2, le=4000, description="Classes, `others` included; RP2K has 2388.")

    train_images: int = Field(4000, ge=1, le=2_000_000, description="Images in train/; RP2K about 342,000.")
    val_images: int = Field(500, ge=0, le=2_000_000, description="Images in val/; 0: no such folder, as in RP2K.")
    test_images: int = Field(2000, ge=1, le=2_000_000, description="Images in test/; RP2K 39,457.")
    min_train_images: int = Field(1, ge=1, le=1000, description="Least images of a class in train.")
    min_val_images: int | None = Field(
        None, ge=1, le=1000, description="Least images of a class in val; null: 5, or half an even division if less."
    )
    min_test_images: int | None = Field(
        None, ge=1, le=1000, description="Least images of a class in test; null: 20, or half an even division if less."
    )
    others_fraction: float = Field(0.03, ge=0.0, le=0.5, description="Fraction of the catch-all class; 0: none.")

    ratio_spread: Fraction = Field(
        0.08, description="Part of RP2K's height/width histogram that one product spans; 1: all, as in version 1."
    )
    shape_of: Literal["product", "brand"] = Field(
        "product",
        description="What has one shape; brand: all its flavors, so that height/width tells no flavors apart.",
    )
    size_cue: int = Field(1, ge=0, le=1, description="1: some products' sizes differ only in height/width.")
    size_fraction: Fraction = Field(0.4, description="Fraction of classes in a size group, when size_cue=1.")
    multipack_class_fraction: Fraction = Field(0.25, description="Fraction of products also sold as multi-packs.")
    multipack_image_fraction: Fraction = Field(0.3, description="Fraction of those products' images with a multi-pack.")

    angle_fraction: Fraction = Field(0.35, description="Fraction of images taken at an angle.")
    blur_fraction: Fraction = Field(0.25, description="Fraction of blurred images.")
    reflection_fraction: Fraction = Field(0.25, description="Fraction of images with a reflection.")
    brightness_fraction: Fraction = Field(0.35, description="Fraction of under- or over-exposed images.")
    color_cast_fraction: Fraction = Field(0.3, description="Fraction of images with a color cast.")
    neighbor_fraction: Fraction = Field(0.3, description="Fraction of images with a neighbor's edge.")

    jpeg_quality: tuple[int, int] = Field((60, 95), strict=False, description="Range of the JPEG quality.")
    png_fraction: Fraction = Field(0.05, description="Fraction of PNG files, named like screenshots.")
    side_px: tuple[int, int] = Field(
        (64, 96), strict=False, description="Range of the width in pixels at height/width 2.25; else more pixels."
    )

    label_noise: float = Field(0.0, ge=0.0, le=0.5, description="Fraction of wrong labels in noisy_splits.")
    look_alike_noise_fraction: Fraction = Field(0.8, description="Fraction of the wrong labels naming a look-alike.")
    noisy_splits: tuple[Split, ...] = Field(("train",), strict=False, description="Splits with wrong labels.")

    exact_duplicates: CopyFraction = Field(0.0, description="Fraction of train: exact copies within train.")
    near_duplicates: CopyFraction = Field(0.0, description="Fraction of train: near copies within train.")
    exact_leaks: CopyFraction = Field(0.0, description="Fraction of test: exact copies of train images.")
    near_leaks: CopyFraction = Field(0.0, description="Fraction of test: near copies of train images.")

    def least_images(self, split: Split) -> int:
        """Return the least number of images of a class in a split."""
        given = getattr(self, f"min_{split}_images")
        if given is not None:
            return given
        most = {"val": 5, "test": 20}[split]  # enough for an interval of the tail
        return min(most, max(1, getattr(self, f"{split}_images") // (2 * self.classes)))

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> "ShelfOptions":
        for name, least, most in (("jpeg_quality", 1, 100), ("side_px", 32, 1024)):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(f"{name}={low},{high}: needs {least} <= low <= high <= {most}")
        return self

    def fingerprint(self) -> str:
        """Return a short hexadecimal name of the set: a hash of options, `VERSION` and OpenCV's version."""
        import cv2  # here, since checking a configuration must not load OpenCV

        # Version 1 is the whole spread: those sets keep their bytes and their names.
        is_first = self.ratio_spread == 1
        options = self.model_dump_json(exclude={"ratio_spread", "shape_of"} if is_first else None)
        text = f"{options} {1 if is_first else VERSION} {cv2.__version__}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]
