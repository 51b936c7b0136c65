"""Mixes of a batch's images and labels (`aug.mix`): image i with the original image n - 1 - i.  One file each.

The papers draw one weight per batch and mix with a random permutation.  Here each image draws a weight from a separate
generator, so that a batch does not depend on threads; its partner is random since the batch's order is.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING

from rp2k_lab.core.options import Group

if TYPE_CHECKING:
    from rp2k_lab.aug.augmentation import MixOperation


class Mix(Group):
    """The options of a mix; a choice declares `name` and its keys."""

    if TYPE_CHECKING:
        name: str

    @abstractmethod
    def build(self) -> "MixOperation | None":
        """Return the operation; None: nothing.

        It takes images, uint8 (n, height, width, 3), and a generator per image.  It returns new images of the same
        shape and the weight of each original image, float32 (n,), 0 to 1.
        """
