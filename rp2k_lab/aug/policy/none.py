"""No policy."""

from typing import TYPE_CHECKING, Literal

from rp2k_lab.aug.policy import Policy
from rp2k_lab.plugins import register

if TYPE_CHECKING:
    from rp2k_lab.aug.transforms import Color


@register("aug/policy")
class NoneOptions(Policy):
    name: Literal["none"]

    def build(self, size: tuple[int, int], fill: "Color") -> None:
        """Return None."""
