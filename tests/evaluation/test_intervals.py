import math

import numpy as np
import pytest

from rp2k_lab.ablation.single_run import single_run_resolution
from rp2k_lab.core.errors import RequestError
from rp2k_lab.evaluation.intervals import macro_interval, wilson_interval


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(correct, count, low, high):
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_other_confidence():
    assert wilson_interval(8, 10, z=1.0) == pytest.approx(
        tuple((0.8 + 0.05 + sign * math.sqrt(0.016 + 0.0025)) / 1.1 for sign in (-1, 1))
    )


def test_wilson_without_images_is_0_to_1():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("count", [1, 3, 7, 39027])
def test_wilson_contains_the_fraction_and_is_symmetric(count):
    for correct in {0, 1, count // 3, count - 1, count}:
        low, high = wilson_interval(correct, count)
        assert 0 <= low <= correct / count <= high <= 1
        assert wilson_interval(count - correct, count) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    assert wilson_interval(0, count)[0] == 0
    assert wilson_interval(count, count)[1] == 1


def exact_coverage(p, count):
    """Return the exact probability that the interval of a binomial count contains p."""
    covered = 0.0
    for correct in range(count + 1):
        low, high = wilson_interval(correct, count)
        if low <= p <= high:
            log_choose = math.lgamma(count + 1) - math.lgamma(correct + 1) - math.lgamma(count - correct + 1)
            covered += math.exp(log_choose + correct * math.log(p) + (count - correct) * math.log(1 - p))
    return covered


@pytest.mark.parametrize("count", [5, 50, 500])
@pytest.mark.parametrize("p", [0.02, 0.3, 0.9])
def test_wilson_covers_at_the_stated_rate(p, count):
    """Near 0 and 1 with few images Wilson dips to 90 %; elsewhere it keeps 95 ± 3."""
    floor = 0.90 if count * min(p, 1 - p) < 1 else 0.92
    assert floor < exact_coverage(p, count) < 0.985


def test_wilson_covers_95_percent_on_average():
    coverage = [exact_coverage(p, count) for p in (0.02, 0.3, 0.9) for count in (5, 50, 500)]
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.015)


# Images per class at RP2K's published quantiles of the test split (published.md): half the classes have 5 or fewer.
LONG_TAIL = np.round(np.interp(np.linspace(0, 1, 400), [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1], [1, 1, 2, 5, 15, 41, 170]))


@pytest.mark.parametrize("accuracy", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_macro_interval_covers_on_long_tailed_counts(accuracy):
    rng = np.random.default_rng(0)
    count = LONG_TAIL.astype(int)
    # Class accuracies: Beta with a spread of about 0.1.
    truth = rng.beta(10 * accuracy, 10 * (1 - accuracy), len(count))
    covered = 0
    for _ in range(600):
        low, high = macro_interval(rng.binomial(count, truth), count)
        covered += low <= truth.mean() <= high
    assert covered / 600 >= 0.93


def test_macro_interval_is_not_needlessly_wide():
    """At accuracy 0.9 the half width is at most 40 % above the one with known accuracy."""
    rng = np.random.default_rng(0)
    count = LONG_TAIL.astype(int)
    low, high = macro_interval(rng.binomial(count, 0.9), count)
    best = 1.96 * math.sqrt((0.09 / count).sum()) / len(count)
    assert (high - low) / 2 < 1.4 * best


def test_macro_interval_leaves_out_classes_without_images():
    with_empty = macro_interval(np.array([3, 0, 7]), np.array([4, 0, 9]))
    assert with_empty == macro_interval(np.array([3, 7]), np.array([4, 9]))


def test_macro_interval_contains_the_macro_accuracy():
    low, high = macro_interval(np.array([1, 1, 9]), np.array([1, 2, 10]))
    assert 0 <= low < (1 + 0.5 + 0.9) / 3 < high <= 1


@pytest.mark.parametrize("correct", [0, 1])
def test_macro_interval_of_single_images_has_a_width(correct):
    low, high = macro_interval(np.full(10, correct), np.ones(10, int))
    assert high - low > 0.1


def test_macro_interval_without_images_is_0_to_1():
    assert macro_interval(np.array([0]), np.array([0])) == (0.0, 1.0)


def test_single_run_resolution_by_hand():
    """published.md: the standard error of an unpaired difference near 95 % on 39,027 images is 0.15 points."""
    found = single_run_resolution(0.0007, 0.9523, 39027, disagreement=0.02, seed_sd=0.001)
    assert found.independent.noise / 1.96 == pytest.approx(0.0015, abs=5e-5)
    assert found.independent.disagreement == pytest.approx(0.9523 * 0.047 + 0.0477 * 0.953)
    assert found.least.z == pytest.approx(math.sqrt(39027 * 0.0007 / (1 - 0.0007)))
    assert (found.least.shown, found.independent.shown, found.measured.shown) == (True, False, False)
    error = math.sqrt((0.02 - 0.0007**2) / 39027)
    assert found.measured.noise == pytest.approx(1.959964 * error)
    assert found.measured.z == pytest.approx(0.0007 / error)
    assert found.measured.noise_with_seeds == pytest.approx(1.959964 * math.sqrt(error**2 + 2e-6))
    assert found.measured.z_with_seeds == pytest.approx(0.0007 / math.sqrt(error**2 + 2e-6))


def test_independent_single_runs_exceed_the_noise_in_5_percent():
    rng = np.random.default_rng(0)
    noise = single_run_resolution(0.0, 0.9, 400).independent.noise
    beyond = np.abs(rng.binomial(400, 0.9, 20000) - rng.binomial(400, 0.9, 20000)) / 400 > noise
    assert beyond.mean() == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize(
    ("difference", "accuracy", "options", "sentence"),
    [
        (
            0.0007,
            0.9523,
            {},
            "depends: ±0.03 points of noise (least possible disagreement) or ±0.30 points of noise "
            "(two independent runs)",
        ),
        (
            -0.0007,
            0.9530,
            {"seed_sd": 0.0012},
            "no: ±0.03 points of noise (least possible disagreement) or ±0.30 points of noise "
            "(two independent runs); ±0.33 or ±0.45 with a seed spread of 0.12",
        ),
        (0.0317, 0.93, {"disagreement": 0.05}, "yes: ±0.22 points of noise (5.00 % disagreement)"),
        (
            0.003,
            0.9662,
            {"disagreement": 0.03, "seed_sd": 0.0012},
            "no: ±0.17 points of noise (3.00 % disagreement); ±0.37 with a seed spread of 0.12",
        ),
    ],
)
def test_single_run_sentence(difference, accuracy, options, sentence):
    assert str(single_run_resolution(difference, accuracy, 39027, **options)) == sentence


def test_measured_disagreement_is_at_least_the_difference():
    found = single_run_resolution(0.03, 0.93, 1000, disagreement=0.01)
    assert found.measured == found.least


def test_no_difference_is_never_shown():
    found = single_run_resolution(0.0, 0.95, 1000)
    assert (found.least.noise, found.least.z, found.answer) == (0, 0, "no")


def test_difference_without_noise_is_shown():
    """All right against all wrong leaves no disagreement to chance."""
    assert single_run_resolution(1.0, 0.0, 10).least.z == math.inf


@pytest.mark.parametrize(("difference", "accuracy", "images"), [(0.07, 95.23, 100), (0.1, 0.95, 100), (0.0, 0.9, 0)])
def test_values_that_are_no_fractions_are_refused(difference, accuracy, images):
    with pytest.raises(RequestError, match=r"not accuracies of single runs\ngive fractions"):
        single_run_resolution(difference, accuracy, images)
