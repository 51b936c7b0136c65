"""Narrower and shallower networks of the same kind: how multipliers turn into channels and blocks."""

import math


def scaled(count: int, multiplier: float) -> int:
    """count · multiplier, rounded, a half up, and at least 1: channels, groups, or the blocks of a stage."""
    return max(1, math.floor(count * multiplier + 0.5))


def scaled_to_eights(channels: int, multiplier: float) -> int:
    """channels · multiplier to the nearest multiple of 8, to the next if that takes away more than a tenth.

    EfficientNet's rounding (`round_filters` of the authors' code, behind arXiv 1905.11946, section 3.3).
    """
    wanted = channels * multiplier
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def check_multipliers(width_multiplier: float = 1.0, depth_multiplier: float = 1.0, **_) -> None:
    """Raise ValueError unless both are above 0 and at most 4."""
    for key, value in (("width_multiplier", width_multiplier), ("depth_multiplier", depth_multiplier)):
        if not 0 < value <= 4:
            raise ValueError(f"model.{key}={value:g}: it needs to be above 0 and at most 4")
