"""Policies: random transformations of each image (`aug.policy`).  One file each."""

from abc import abstractmethod
from typing import TYPE_CHECKING

from rp2k_lab.core.options import Group

if TYPE_CHECKING:
    from rp2k_lab.aug.augmentation import Operation
    from rp2k_lab.aug.transforms import Color


class Policy(Group):
    """The options of a policy; a choice declares `name` and its keys."""

    if TYPE_CHECKING:
        name: str

    @abstractmethod
    def build(self, size: tuple[int, int], fill: "Color") -> "Operation | None":
        """Return the operation; None: nothing.

        Args:
            size: (height, width) of the images [pixels].
            fill: RGB (0 to 255) of pixels from outside the image.
        """
