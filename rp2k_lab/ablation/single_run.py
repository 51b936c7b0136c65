"""Whether one run of each level could have shown a published difference."""

import math
from dataclasses import dataclass
from typing import Literal

from rp2k_lab.core.errors import RequestError


@dataclass(frozen=True)
class Limit:
    """What noise alone does to the difference of two single runs that disagree on a share of the images.

    Attributes:
        disagreement: share of the images that exactly one of the two runs has right.
        noise, z, shown: half width of the 95 % interval from the images alone (a share), |difference| in its standard
            errors (inf where there is no noise), and whether |difference| exceeds the noise.
        noise_with_seeds, z_with_seeds, shown_with_seeds: the same with the seed spread of both runs added.
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
    """Whether one run of each level could have shown a difference; `str()` is the sentence for a report.

    Attributes:
        difference: a share; images: how many were tested; seed_sd: of one run's accuracy over seeds, a share.
        least: at the least disagreement that the difference admits.
        independent: the runs err independently of each other.
        measured: at a disagreement that was given; else None.
    """

    difference: float
    images: int
    seed_sd: float
    least: Limit
    independent: Limit
    measured: Limit | None

    @property
    def answer(self) -> Literal["yes", "no", "depends"]:
        """By the measured disagreement where there is one; else "depends" when the two limits differ.  With seeds."""
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
    """Could one run of each on the same test images have shown a published difference?

    The variance of the difference of two accuracies on the same images is (d - difference²) / images, d the share on
    which the runs disagree (McNemar, Psychometrika 12, 1947).  Unpublished, d lies between |difference| and, for runs
    that err independently, a (1 - b) + b (1 - a); runs trained on the same images agree more than that.

    Args:
        difference: level - baseline, a share.
        accuracy: the baseline's, a share.
        disagreement: measured d, a share; below |difference| it is taken as that.
        seed_sd: standard deviation of one run's accuracy over seeds, a share; its square is added twice.

    Raises:
        RequestError: an accuracy outside [0, 1], or no images.
    """
    other = accuracy + difference
    if not (0 <= accuracy <= 1 and 0 <= other <= 1 and images >= 1):
        raise RequestError(
            f"accuracy {accuracy}, difference {difference} on {images} images: no accuracies of single runs\n"
            "give shares between 0 and 1 (0.9523, not 95.23) and at least one image"
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
