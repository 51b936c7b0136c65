"""Width and depth multipliers: the arithmetic of channels and blocks."""

import math


def scaled(count: float, multiplier: float) -> int:
    """Return count · multiplier, rounded (a half up), at least 1; for channels, groups and blocks of a stage."""
    return max(1, math.floor(count * multiplier + 0.5))


def scaled_to_eights(channels: int, multiplier: float) -> int:
    """Return channels · multiplier as the nearest multiple of 8, or the next one if that is over a tenth less.

    EfficientNet's rounding (arXiv 1905.11946, section 3.3; `round_filters` of the authors' code).
    """
    wanted = channels * multiplier
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def check_multipliers(width_multiplier: float = 1.0, depth_multiplier: float = 1.0, **_: object) -> None:
    """Raise ValueError unless both multipliers are in (0, 4]."""
    for key, value in (("width_multiplier", width_multiplier), ("depth_multiplier", depth_multiplier)):
        if not 0 < value <= 4:
            raise ValueError(f"model.{key}={value:g}: out of range\nuse a value above 0 and at most 4")
