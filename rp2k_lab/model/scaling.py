"""Narrower and shallower networks of the same kind: how multipliers turn into channels and blocks."""

import math


def scaled(count: int, multiplier: float) -> int:
    """count · multiplier, rounded, a half up, and at least 1: channels, groups, or the blocks of a stage."""
    return max(1, math.floor(count * multiplier + 0.5))


def check_multipliers(width_multiplier: float = 1.0, depth_multiplier: float = 1.0, **_) -> None:
    """Raise ValueError unless both are above 0 and at most 4."""
    for key, value in (("width_multiplier", width_multiplier), ("depth_multiplier", depth_multiplier)):
        if not 0 < value <= 4:
            raise ValueError(f"model.{key}={value:g}: it needs to be above 0 and at most 4")
