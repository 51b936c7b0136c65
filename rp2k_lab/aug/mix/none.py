"""No mix."""

from typing import Literal

from rp2k_lab.aug.mix import Mix
from rp2k_lab.plugins import register


@register("aug/mix")
class NoneOptions(Mix):
    name: Literal["none"]

    def build(self) -> None:
        """Return None."""
