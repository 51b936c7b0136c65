"""Options of the augmentation: crop, flip and color jitter, and a choice for each slot (policy, erase, mix)."""

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from rp2k_lab.core.options import Fraction, Group, PositiveFloat, Rate
from rp2k_lab.plugins import options_of, register

if TYPE_CHECKING:
    from rp2k_lab.aug.augmentation import Augmentation, Operation
    from rp2k_lab.aug.erase import Erase
    from rp2k_lab.aug.mix import Mix
    from rp2k_lab.aug.policy import Policy
    from rp2k_lab.aug.transforms import Color


def _check_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= bounds[1] <= 1:
        raise ValueError("needs smallest <= largest <= 1")
    return bounds


# Smallest and largest fraction of an image's area.
Area = Annotated[tuple[PositiveFloat, PositiveFloat], Field(strict=False), AfterValidator(_check_order)]


@register("aug")
class Aug(Group):
    """A combination of parts: every choice of `aug` that no other class describes.

    Installed packages may add choices for the slots.  So the types of the slots are forward references, which
    config/schema.py resolves when all packages are imported.  A combination with more keys is a subclass.
    """

    name: str = Field(description="name of the combination")
    crop: Area | None = Field(
        description="area of RandomResizedCrop, smallest and largest fraction of the image; null: no crop"
    )
    flip: Fraction = Field(description="probability of a horizontal flip")
    color: Rate = Field(description="jitter of brightness, contrast and saturation, each by a factor in 1 ± this value")
    policy: "Policy"
    erase: "Erase"
    mix: "Mix"

    @property
    def label(self) -> str:
        """The parts (`randaugment+cutmix`), or the name of a combination that is not called like one of them."""
        parts = {"aug/policy": self.policy, "aug/erase": self.erase, "aug/mix": self.mix}
        if not any(self.name in options_of(slot) for slot in parts):
            return self.name
        return "+".join(part.name for part in parts.values() if part.name != "none") or "none"

    @property
    def is_none(self) -> bool:
        """Whether an image is the same in all epochs; a subclass with an operation may be more than this knows."""
        slots = {self.policy.name, self.erase.name, self.mix.name}
        is_plain = type(self).build_operation is Aug.build_operation
        return is_plain and slots == {"none"} and (self.crop, self.flip, self.color) == (None, 0, 0)

    def build(self, size: tuple[int, int], mean: tuple[float, float, float]) -> "Augmentation":
        """Build the augmentation, in the published order: crop, flip, color, policy, erasing.

        Args:
            size: (height, width) of the network's input [pixels].
            mean: the data set's RGB mean (0 to 1), the color of empty pixels.
        """
        from rp2k_lab.aug.augmentation import Augmentation
        from rp2k_lab.aug.color import ColorJitter
        from rp2k_lab.aug.geometry import HorizontalFlip, RandomResizedCrop

        fill = round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2])
        operations = [
            HorizontalFlip(self.flip) if self.flip else None,
            ColorJitter(self.color) if self.color else None,
            self.policy.build(size, fill),
            self.build_operation(size, fill),
            self.erase.build(size, fill),
        ]
        crop = RandomResizedCrop(size, self.crop) if self.crop else None
        return Augmentation(crop, tuple(filter(None, operations)), self.mix.build())

    def build_operation(self, size: tuple[int, int], fill: "Color") -> "Operation | None":
        """Return the operation of a subclass, between policy and erasing; None: nothing.

        Args:
            size: (height, width) of the network's input [pixels].
            fill: RGB (0 to 255) of empty pixels.
        """
        return None
