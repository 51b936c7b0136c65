"""Test whether one run of each level could have shown a published difference."""

import math
from dataclasses import dataclass
from typing import Literal

from rp2k_lab.core.errors import RequestError


@dataclass(frozen=True)
class Limit:
    """Noise in the difference of two single runs, at a given disagreement.

    Attributes:
        disagreement: fraction of the images that exactly one of the two runs has right.
        noise, z, shown: half width of the 95 % interval from the images alone (a fraction), |difference| in standard
            errors (inf without noise), and whether |difference| exceeds the noise.
        noise_with_seeds, z_with_seeds, shown_with_seeds: the same, plus the seed spread of both runs.
    """

    disagreement: float
    noise: float
    z: float
    shown: bool
    noise_with_seeds: float
    z_with_seeds: float
    shown_with_seeds: bool


@dataclass(frozen=True)
class SingleRun:
    """Whether one run of each level could have shown a difference; `str()` gives the sentence for a report.

    Attributes:
        difference: a fraction.
        images: number of test images.
        seed_sd: standard deviation of one run's accuracy over seeds, a fraction.
        least: at the least possible disagreement, |difference|.
        independent: at the disagreement of two independent runs.
        measured: at the given disagreement, or None.
    """

    difference: float
    images: int
    seed_sd: float
    least: Limit
    independent: Limit
    measured: Limit | None

    @property
    def answer(self) -> Literal["yes", "no", "depends"]:
        """By the measured disagreement; without one, "depends" if the two limits differ.  Includes the seed spread."""
        limits = (self.measured,) if self.measured else (self.least, self.independent)
        shown = {limit.shown_with_seeds for limit in limits}
        return "depends" if len(shown) == 2 else "yes" if shown == {True} else "no"

    def __str__(self) -> str:
        names = {"least": "least possible disagreement", "independent": "two independent runs"}
        limits = {names[name]: getattr(self, name) for name in names}
        if self.measured:
            limits = {f"{100 * self.measured.disagreement:.2f} % disagreement": self.measured}
        images = " or ".join(f"±{100 * limit.noise:.2f} points of noise ({name})" for name, limit in limits.items())
        if self.seed_sd == 0:
            return f"{self.answer}: {images}"
        seeds = " or ".join(f"±{100 * limit.noise_with_seeds:.2f}" for limit in limits.values())
        return f"{self.answer}: {images}; {seeds} with a seed spread of {100 * self.seed_sd:.2f}"


def single_run_resolution(
    difference: float,
    accuracy: float,
    images: int,
    disagreement: float | None = None,
    seed_sd: float = 0.0,
    alpha: float = 0.05,
) -> SingleRun:
    """Return whether one run of each level on the same test images could have shown a published difference.

    The variance of the difference of two accuracies a and b on the same images is (d - difference²) / images, where d
    is the fraction of images on which the runs disagree (McNemar, Psychometrika 12, 1947).  If d was not published, it
    lies between |difference| and a (1 - b) + b (1 - a) (independent errors); runs trained on the same images agree
    more than that.

    Args:
        difference: level - baseline, a fraction.
        accuracy: of the baseline, a fraction.
        disagreement: measured d, a fraction; raised to |difference| if smaller.
        seed_sd: standard deviation of one run's accuracy over seeds, a fraction; its square is added twice.

    Raises:
        RequestError: an accuracy is outside [0, 1], or there are no images.
    """
    other = accuracy + difference
    if not (0 <= accuracy <= 1 and 0 <= other <= 1 and images >= 1):
        raise RequestError(
            f"accuracy {accuracy}, difference {difference} on {images} images: not accuracies of single runs\n"
            "give fractions between 0 and 1 (0.9523, not 95.23) and at least one image"
        )

    def limit(d: float) -> Limit:
        return Limit(
            d, *_resolved(difference, d, images, 0.0, alpha), *_resolved(difference, d, images, seed_sd, alpha)
        )

    return SingleRun(
        difference=difference,
        images=images,
        seed_sd=seed_sd,
        least=limit(abs(difference)),
        independent=limit(accuracy * (1 - other) + other * (1 - accuracy)),
        measured=None if disagreement is None else limit(max(disagreement, abs(difference))),
    )


def _resolved(difference: float, disagreement: float, images: int, seed_sd: float, alpha: float):
    from scipy.special import ndtri

    error = math.sqrt((disagreement - difference**2) / images + 2 * seed_sd**2)
    noise = -float(ndtri(alpha / 2)) * error
    z = abs(difference) / error if error else math.inf if difference else 0.0
    return noise, z, abs(difference) > noise
