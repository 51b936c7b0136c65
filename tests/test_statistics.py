import math

import numpy as np
import pytest

from rp2k_lab.statistics import macro_interval, wilson_interval


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
def test_wilson_equals_textbook(correct, count, low, high):
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_other_confidence():
    assert wilson_interval(8, 10, z=1.0) == pytest.approx(
        tuple((0.8 + 0.05 + sign * math.sqrt(0.016 + 0.0025)) / 1.1 for sign in (-1, 1))
    )


def test_wilson_of_nothing_is_everything():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("count", [1, 3, 7, 39027])
def test_wilson_holds_the_share_and_its_mirror(count):
    for correct in {0, 1, count // 3, count - 1, count}:
        low, high = wilson_interval(correct, count)
        assert 0 <= low <= correct / count <= high <= 1
        assert wilson_interval(count - correct, count) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    assert wilson_interval(0, count)[0] == 0
    assert wilson_interval(count, count)[1] == 1


def exact_coverage(p, count):
    """Probability that the interval of a binomial count holds p: summed over every outcome, no simulation's noise."""
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
    """Near 0 and 1 with few images Wilson is known to dip to 90 % at single points; elsewhere it keeps 95 ± 3."""
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
    # Classes differ: Beta with a spread of about 0.1 around the accuracy.
    truth = rng.beta(10 * accuracy, 10 * (1 - accuracy), len(count))
    covered = 0
    for _ in range(600):
        low, high = macro_interval(rng.binomial(count, truth), count)
        covered += low <= truth.mean() <= high
    assert covered / 600 >= 0.93


def test_macro_interval_is_not_needlessly_wide():
    """At accuracy 0.9 the half width stays within 40 % of the one that knew the truth."""
    rng = np.random.default_rng(0)
    count = LONG_TAIL.astype(int)
    low, high = macro_interval(rng.binomial(count, 0.9), count)
    known = 1.96 * math.sqrt((0.09 / count).sum()) / len(count)
    assert (high - low) / 2 < 1.4 * known


def test_macro_interval_leaves_out_classes_without_images():
    with_empty = macro_interval(np.array([3, 0, 7]), np.array([4, 0, 9]))
    assert with_empty == macro_interval(np.array([3, 7]), np.array([4, 9]))


def test_macro_interval_holds_the_macro_accuracy_within_bounds():
    low, high = macro_interval(np.array([1, 1, 9]), np.array([1, 2, 10]))
    assert 0 <= low < (1 + 0.5 + 0.9) / 3 < high <= 1


@pytest.mark.parametrize("correct", [0, 1])
def test_macro_interval_of_single_images_has_a_width(correct):
    low, high = macro_interval(np.full(10, correct), np.ones(10, int))
    assert high - low > 0.1


def test_macro_interval_of_nothing_is_everything():
    assert macro_interval(np.array([0]), np.array([0])) == (0.0, 1.0)
