"""Verdicts compared with textbook cases, exact quadrature and simulation.

Each simulation states its measured rates; a seeded generator reproduces them.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

from rp2k_lab.ablation.significance import Difference, images_to_settle, judge, paired_difference, seeds_to_settle
from rp2k_lab.core.errors import DataError


def difference(value=0.0, seed_part=1e-4, image_part=1e-4, seeds=3, images=100_000):
    """Return a Difference with the given parts of its variance; with 100,000 images their t is normal."""
    return Difference(
        value=value,
        standard_error=math.sqrt(seed_part + image_part),
        degrees_of_freedom=math.nan,
        seeds=seeds,
        images=images,
        seed_variance=seed_part * seeds,
        image_variance=image_part * images,
        residual_variance=0.0,
    )


# Two seeds, four images, by hand.
LEVEL = np.array([[1, 0, 0, 1], [1, 0, 0, 0]], bool)
BASELINE = np.array([[0, 0, 0, 0], [0, 0, 1, 0]], bool)


def test_paired_difference_by_hand():
    found = paired_difference(LEVEL, BASELINE)
    assert found.value == 0.25
    assert (found.seeds, found.images) == (2, 4)
    assert found.seed_variance == pytest.approx(0.125)  # of 0.5 and 0
    assert found.image_variance == pytest.approx(1.25 / 3)  # of 1, 0, -0.5, 0.5
    assert found.residual_variance == pytest.approx(0.5 / 3)  # eight of ±0.25 over (2 - 1)(4 - 1)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 6))
    assert found.degrees_of_freedom == pytest.approx((1 / 6) ** 2 / (0.0625**2 + (1.25 / 12) ** 2 / 3))


def test_interval_by_hand():
    """At 50 %, t(1) is 1 and t(3) is 0.764892 (tables)."""
    [verdict] = judge([paired_difference(LEVEL, BASELINE)], alpha=0.5)
    half = math.sqrt(0.0625 + 0.764892**2 * 1.25 / 12)
    assert (verdict.low, verdict.high) == pytest.approx((0.25 - half, 0.25 + half), abs=1e-6)
    assert verdict.bound == verdict.high


def test_equals_the_paired_t_test_if_only_seeds_vary():
    rng = np.random.default_rng(0)
    baseline, per_seed = rng.random((4, 50)), np.array([0.03, 0.05, 0.02, 0.04])
    found = paired_difference(baseline + per_seed[:, None], baseline)
    [verdict] = judge([found])
    expected = stats.ttest_1samp(per_seed, 0)
    interval = expected.confidence_interval()
    assert found.image_variance == 0
    assert found.degrees_of_freedom == pytest.approx(3)
    assert verdict.p == verdict.p_holm == pytest.approx(expected.pvalue)
    assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high))
    assert verdict.word == "better"


def test_equals_the_one_sample_t_test_if_only_images_vary():
    per_image = np.array([0.1, -0.3, 0.0, -0.4, -0.2, -0.2])
    [verdict] = judge([paired_difference(np.tile(per_image, (3, 1)), np.zeros((3, 6)))])
    expected = stats.ttest_1samp(per_image, 0)
    interval = expected.confidence_interval()
    assert verdict.p == pytest.approx(expected.pvalue)
    assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("value", [0.0, 0.004, 0.02, 0.3])
def test_interval_at_level_p_ends_at_zero(value):
    [verdict] = judge([difference(value)])
    [at_p] = judge([difference(value)], alpha=verdict.p)
    assert at_p.low == pytest.approx(0, abs=1e-9)


def test_swapping_level_and_baseline_mirrors_the_verdict():
    rng = np.random.default_rng(1)
    level, baseline = rng.random((5, 300)) < 0.95, rng.random((5, 300)) < 0.8
    [forth], [back] = judge([paired_difference(level, baseline)]), judge([paired_difference(baseline, level)])
    assert (forth.word, back.word) == ("better", "worse")
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
    assert back.p == pytest.approx(forth.p)


def test_equal_weights_change_nothing():
    rng = np.random.default_rng(2)
    level, baseline = rng.random((3, 40)) < 0.9, rng.random((3, 40)) < 0.9
    plain, weighted = paired_difference(level, baseline), paired_difference(level, baseline, np.full(40, 0.3))
    assert vars(weighted) == pytest.approx(vars(plain))


def test_images_of_weight_zero_are_ignored():
    rng = np.random.default_rng(3)
    level, baseline, weights = rng.random((3, 40)) < 0.9, rng.random((3, 40)) < 0.7, rng.random(40)
    weights[25:] = 0
    whole = paired_difference(level, baseline, weights)
    assert vars(whole) == pytest.approx(vars(paired_difference(level[:, :25], baseline[:, :25], weights[:25])))
    assert whole.images == 25


def macro_weights(labels):
    _, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[which])


def test_macro_weights_give_the_mean_over_classes():
    labels = np.array([0, 0, 0, 0, 1, 2, 2])
    level, baseline = np.zeros((1, 7)), np.array([[1, 0, 0, 0, -1, 0.5, -1.5]])
    found = paired_difference(level, baseline, macro_weights(labels))
    assert found.value == pytest.approx(-(0.25 - 1 - 0.5) / 3)
    leverage = macro_weights(labels)
    expected = (leverage**2 * (-baseline[0] - found.value) ** 2 / (1 - leverage)).sum()
    assert found.image_variance / found.images == pytest.approx(expected)


@pytest.mark.parametrize(
    ("level", "baseline", "weights", "message"),
    [
        (np.ones((3, 4)), np.ones((3, 5)), None, r"level and baseline.*\(3, 4\) and \(3, 5\)"),
        (np.ones(4), np.ones(4), None, "level and baseline"),
        (np.ones((3, 4)), np.ones((3, 4)), np.ones(5), "weights"),
        (np.ones((3, 4)), np.ones((3, 4)), np.array([1, 1, 1, -1]), "weights"),
        (np.ones((3, 4)), np.ones((3, 4)), np.array([1, 1, 1, np.nan]), "weights"),
        (np.ones((3, 4)), np.ones((3, 4)), np.array([0, 0, 0, 1]), "3 seeds and 1 images"),
        (np.ones((0, 4)), np.ones((0, 4)), None, "0 seeds"),
    ],
)
def test_invalid_results_are_refused(level, baseline, weights, message):
    with pytest.raises(DataError, match=message) as refusal:
        paired_difference(level, baseline, weights)
    assert str(refusal.value).count("\n") == 1


def test_holm_equals_the_closed_bonferroni_test():
    """Holm's adjusted p is the largest Bonferroni p over all sets of rows that contain the row."""
    verdicts = judge([difference(value) for value in (0.5, 0.02, -0.2, 0.21, 0.001)])
    p = [verdict.p for verdict in verdicts]
    sets = [rows for size in range(1, 6) for rows in itertools.combinations(range(5), size)]
    for row, verdict in enumerate(verdicts):
        expected = max(min(1, len(rows) * min(p[r] for r in rows)) for rows in sets if row in rows)
        assert verdict.p_holm == pytest.approx(expected)


def test_interval_of_a_row_that_only_holm_decides_is_cut_at_zero():
    """p of 0.033 is too large for 2.5 %, Bonferroni's level of two rows, but not for Holm's second step."""
    clear, late = judge([difference(-0.3, seeds=10), difference(0.033, seeds=10)])
    assert clear.word == "worse"
    assert clear.high < -0.2
    assert 0.025 < late.p == late.p_holm < 0.05
    assert (late.word, late.low, late.bound) == ("better", 0.0, None)
    [_, alone] = judge([difference(seeds=10), difference(0.033, seeds=10)])
    assert (alone.word, alone.high) == ("open", late.high)
    assert alone.low < 0


def test_intervals_end_within_minus_one_and_one():
    [verdict] = judge([difference(0.5, seed_part=0.1, seeds=2)])
    assert (verdict.low, verdict.high, verdict.bound) == (-1, 1, 1)


def test_one_seed_is_open_with_the_interval_of_the_images():
    rng = np.random.default_rng(4)
    level, baseline = rng.random((1, 500)) < 0.95, rng.random((1, 500)) < 0.5
    found = paired_difference(level, baseline)
    assert (found.seeds, found.degrees_of_freedom) == (1, 499)
    assert math.isnan(found.standard_error)
    assert math.isnan(found.seed_variance)
    verdict, other = judge([found, difference(0.3)])
    per_image = level[0].astype(int) - baseline[0]
    half = stats.t.isf(0.0125, 499) * stats.sem(per_image)
    assert (verdict.low, verdict.high) == pytest.approx((found.value - half, found.value + half))
    assert verdict.low > 0
    assert (verdict.word, verdict.bound) == ("open", verdict.high)
    assert math.isnan(verdict.p)
    assert math.isnan(verdict.p_holm)
    assert other.p_holm == pytest.approx(2 * other.p)  # the untested row counts as a comparison
    assert seeds_to_settle(found, 2) is None
    assert images_to_settle(found, 2) is None


@pytest.mark.parametrize("seeds", [1, 3])
def test_identical_predictions_are_bounded_by_the_rule_of_three(seeds):
    same = np.random.default_rng(5).random((seeds, 1000)) < 0.9
    found = paired_difference(same, same)
    [verdict] = judge([found])
    assert found.standard_error == 0 or seeds == 1
    assert verdict.word == "open"
    assert math.isnan(verdict.p)
    # At this rate of disagreement, 1000 images show none 5 % of the time.
    assert (1 - verdict.bound) ** 1000 == pytest.approx(0.05)
    assert verdict.bound == pytest.approx(0.003, rel=0.01)
    assert verdict.low == -verdict.bound
    assert seeds_to_settle(found, 1) is None
    assert images_to_settle(found, 1) is None


def test_a_constant_difference_has_no_variance_despite_rounding():
    weights = np.random.default_rng(6).random(30)
    found = paired_difference(np.full((3, 30), 0.4), np.full((3, 30), 0.1), weights)
    assert found.value == pytest.approx(0.3)
    assert found.standard_error == 0
    assert judge([found])[0].word == "open"


def test_tiny_p_has_a_lower_limit():
    [verdict] = judge([difference(0.9, 1e-12, 1e-12, seeds=50)])
    assert (verdict.p, verdict.word) == (1e-100, "better")


def test_no_rows_give_no_verdicts():
    assert judge([]) == []


# ---- Error rates of intervals and words ----


def exact_miss(seed_fraction, seeds, alpha, half_width):
    """Return how often the interval misses a normal value of variance 1, of which seed_fraction is between seeds.

    It integrates over 500 quantiles of the chi² of the seed part, without simulation noise.
    """
    estimates = seed_fraction * stats.chi2.ppf((np.arange(500) + 0.5) / 500, seeds - 1) / (seeds - 1)
    return 2 * stats.norm.sf([half_width(estimate, 1 - seed_fraction, seeds, alpha) for estimate in estimates]).mean()


SCALE = 1e-3  # keeps intervals within [-1, 1]


def judged_half_width(seed_part, image_part, seeds, alpha):
    row = difference(seed_part=SCALE**2 * seed_part, image_part=SCALE**2 * image_part, seeds=seeds, images=10**8)
    return judge([row], alpha)[0].high / SCALE


def satterthwaite_half_width(seed_part, image_part, seeds, alpha):
    variance = seed_part + image_part
    return math.sqrt(variance) * stats.t.isf(alpha / 2, variance**2 / (seed_part**2 / (seeds - 1)))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 6])
def test_covers_at_any_fraction_of_seed_variance(seeds, alpha):
    """Measured misses, as multiples of alpha, at the fractions below: 3 seeds 0.47–1.00 at 5 %, 0.15–0.99 at 0.83 %."""
    misses = [
        exact_miss(fraction, seeds, alpha, judged_half_width) / alpha for fraction in (0.001, 0.3, 0.7, 0.9, 0.999)
    ]
    assert max(misses) <= 1.005  # quadrature
    assert max(misses) > 0.98  # exact at both ends: not too wide


@pytest.mark.parametrize(("alpha", "worst"), [(0.05, 0.079), (0.05 / 6, 0.033)])
def test_satterthwaite_would_not_cover_with_three_seeds(alpha, worst):
    """The reason not to use it: the worst rate over all fractions of seed variance, as in the module docstring."""
    misses = [exact_miss(f, 3, alpha, satterthwaite_half_width) for f in (0.8, 0.85, 0.9, 0.95)]
    assert max(misses) == pytest.approx(worst, rel=0.03)


def runs(rng, levels, seeds, images, *, accuracy=0.9, level_sd=0.0, seed_sd=0.0, rest_sd=0.5, burst=1):
    """Return correctness, bool (levels, seeds, images), of equally good levels: the sign of a sum of normal effects.

    The effects are those of the image (sd 1.5, shared, so that errors correlate), the image in a level, the run, and a
    rest; `burst` images in a row share both image effects.
    """

    def of_images(levels, sd):
        effects = rng.standard_normal((levels, 1, images // burst), np.float32)
        return sd * np.repeat(effects, burst, axis=2)

    center = special.ndtri(accuracy) * math.sqrt(1.5**2 + level_sd**2 + seed_sd**2 + rest_sd**2)
    of_runs = center + seed_sd * rng.standard_normal((levels, seeds, 1), np.float32)
    rest = rest_sd * rng.standard_normal((levels, seeds, images), np.float32)
    return of_images(1, 1.5) + of_images(levels, level_sd) + of_runs + rest > 0


def coverage(repeats, seeds, images, weights=None, **effects):
    """Return the fraction of simulated pairs of levels whose interval contains the true difference, 0."""
    rng, covered = np.random.default_rng(7), 0
    for _ in range(repeats):
        level, baseline = runs(rng, 2, seeds, images, **effects)
        [verdict] = judge([paired_difference(level, baseline, weights)])
        covered += verdict.low <= 0 <= verdict.high
    return covered / repeats


REPEATS = 500
BAND = 3 * math.sqrt(0.95 * 0.05 / REPEATS)  # three standard errors of a rate of 95 or 5 %


@pytest.mark.parametrize(
    ("seeds", "images", "effects"),
    [
        (3, 500, {}),  # measured 99.0 %: all variance is the rest, which both parts contain
        (3, 500, {"level_sd": 0.7}),  # 98.4
        (3, 2000, {"seed_sd": 0.3}),  # 95.4: all variance is between seeds
        (3, 500, {"seed_sd": 0.3, "level_sd": 0.7}),  # 96.8
        (5, 500, {"level_sd": 1.5, "rest_sd": 0.2}),  # 96.2: nearly all variance is between images
        (5, 500, {"seed_sd": 0.1, "level_sd": 0.7}),  # 97.8
        (5, 2000, {"seed_sd": 0.1}),  # 97.6
    ],
)
def test_coverage(seeds, images, effects):
    """Levels disagree on 6 % (only the rest), 10 % (level_sd 0.7) or 14 % (1.5) of the images.

    The accuracy of one run has a seed spread of 0.8 to 3.4 points.
    """
    found = coverage(REPEATS, seeds, images, **effects)
    assert found >= 0.95 - BAND


def test_coverage_of_macro_accuracy_on_a_long_tail():
    """40 classes of 1 to 60 images; measured 97.8 %."""
    counts = np.round(np.geomspace(1, 60, 40)).astype(int)
    weights = macro_weights(np.repeat(np.arange(40), counts))
    found = coverage(REPEATS, 5, counts.sum(), weights, level_sd=0.7)
    assert found >= 0.95 - BAND


def test_coverage_is_lost_on_bursts_of_near_copies():
    """The model assumes independent images.  With five in a row of one scene: measured 63 %, as documented."""
    found = coverage(400, 5, 500, level_sd=1.5, rest_sd=0.2, burst=5)
    assert 0.55 < found < 0.75


@pytest.mark.parametrize("seeds", [3, 5])
def test_coverage_with_few_disagreements_in_one_direction(seeds):
    """The level fixes 0.8 % of 500 images, the same with every seed: about 4, too few for a normal mean.

    Measured 90.6 % with 3 and with 5 seeds, as documented.
    """
    rng, covered = np.random.default_rng(10), 0
    for _ in range(REPEATS):
        fixed = np.tile(rng.random(500) < 0.008, (seeds, 1))
        [verdict] = judge([paired_difference(fixed, np.zeros_like(fixed))])
        covered += verdict.low <= 0.008 <= verdict.high
    assert 0.87 < covered / REPEATS < 0.95


def tables(repeats, seeds, truth, seed_sd, image_sd=0.01):
    """Yield tables of rows with one baseline: normal run effects, and known image effects (many images)."""
    rng, truth = np.random.default_rng(8), np.asarray(truth)
    for _ in range(repeats):
        accuracy = seed_sd * rng.standard_normal((len(truth) + 1, seeds))
        image = image_sd * rng.standard_normal(len(truth) + 1) / math.sqrt(2)
        per_seed = accuracy[1:] - accuracy[0] + (truth + image[1:] - image[0])[:, None]
        yield judge([difference(row.mean(), row.var(ddof=1) / seeds, image_sd**2, seeds) for row in per_seed])


@pytest.mark.parametrize(("seeds", "seed_sd"), [(3, 0.01), (3, 0.1), (5, 0.05)])
def test_calling_any_of_six_equal_levels_is_rare(seeds, seed_sd):
    """Family-wise rate, complete null: measured 0.6, 4.0 and 3.0 %; over 10,000 tables 0.8, 4.5 and 3.9 %."""
    called = sum(any(verdict.word != "open" for verdict in table) for table in tables(REPEATS, seeds, [0] * 6, seed_sd))
    assert called / REPEATS <= 0.05 + BAND


def test_error_rates_beside_clear_differences():
    """Three levels are clearly better, two equal to the baseline, one worse by 1e-5.

    Measured: 5.0 % of tables have a wrong word (or direction), 3.6 % an interval that misses, 6.2 % either.
    """
    truth = np.array([0.3, 0.3, 0.3, 0, 0, -1e-5])
    wrong = missed = either = 0
    for table in tables(REPEATS, 5, truth, 0.01, image_sd=0.001):
        assert [verdict.word for verdict in table[:3]] == ["better"] * 3
        assert all(verdict.low >= 0 for verdict in table if verdict.word == "better")
        assert all(verdict.high <= 0 for verdict in table if verdict.word == "worse")
        word = any(verdict.word != "open" for verdict in table[3:5]) or table[5].word == "better"
        interval = any(not v.low <= t <= v.high for v, t in zip(table, truth, strict=True))
        wrong, missed, either = wrong + word, missed + interval, either + (word or interval)
    assert wrong / REPEATS <= 0.05 + BAND
    assert missed / REPEATS <= 0.05 + BAND
    assert either / REPEATS <= 0.1


# ---- Seeds and images to settle a difference ----


def expected_difference(value, seed_sd, image_sd, rest_sd, seeds, images):
    """Return the average estimate of paired_difference for normal effects with these standard deviations."""
    seed_variance = seed_sd**2 + rest_sd**2 / images
    image_variance = image_sd**2 + rest_sd**2 / seeds
    variance = seed_variance / seeds + image_variance / images
    return Difference(value, math.sqrt(variance), math.nan, seeds, images, seed_variance, image_variance, rest_sd**2)


def simulated_power(value, seed_sd, image_sd, rest_sd, seeds, images, comparisons, repeats=600):
    rng, called = np.random.default_rng(9), 0
    for _ in range(repeats):
        level = (
            value
            + seed_sd * rng.standard_normal((seeds, 1))
            + image_sd * rng.standard_normal(images)
            + rest_sd * rng.standard_normal((seeds, images))
        )
        [verdict] = judge([paired_difference(level, np.zeros_like(level))], 0.05 / comparisons)
        called += verdict.word == "better"
    return called / repeats


SETTLE = [
    {"seed_sd": 0.01, "image_sd": 0.05, "rest_sd": 0.1},
    {"seed_sd": 0.0, "image_sd": 0.0, "rest_sd": 0.25},  # both parts of the estimate contain it
]


POWER_BAND = 3 * math.sqrt(0.8 * 0.2 / 600)


@pytest.mark.parametrize("effects", SETTLE)
def test_seeds_to_settle_reach_the_power(effects):
    """One seed fewer does not.  Over 6000 repeats: 10 seeds 81.6 % (9: 76.3), 16 seeds 79.5 % (15: 75.6)."""
    row = expected_difference(0.02, **effects, seeds=3, images=200)
    seeds = seeds_to_settle(row, 3)
    fewer, enough = (simulated_power(0.02, **effects, seeds=n, images=200, comparisons=3) for n in (seeds - 1, seeds))
    assert enough > 0.8 - POWER_BAND
    assert fewer < 0.8 + POWER_BAND


@pytest.mark.parametrize("effects", SETTLE)
def test_images_to_settle_reach_the_power(effects):
    """Over 6000 repeats: 128 images 79.1 %, 344 images 79.8 %."""
    row = expected_difference(0.04, **effects, seeds=4, images=50)
    images = images_to_settle(row, 2)
    assert simulated_power(0.04, **effects, seeds=4, images=images, comparisons=2) == pytest.approx(0.8, abs=POWER_BAND)


Z_CALLED, Z_POWER = 1.959964, 0.841621  # 5 % two-sided; 80 %


def test_many_seeds_to_settle_match_the_textbook():
    """Only seeds vary, and there are many: sd² (z + z)² / value²."""
    row = expected_difference(0.01, seed_sd=0.1, image_sd=0.0, rest_sd=0.0, seeds=3, images=100)
    assert seeds_to_settle(row, 1) == pytest.approx((Z_CALLED + Z_POWER) ** 2 * 100, rel=0.01)


def test_many_images_to_settle_match_the_textbook():
    """Only the rest varies, with many seeds: the interval contains it twice, the difference once."""
    row = expected_difference(0.001, seed_sd=0.0, image_sd=0.0, rest_sd=1.0, seeds=2000, images=100)
    expected = (math.sqrt(2) * Z_CALLED + Z_POWER) ** 2 / 0.001**2 / 2000
    assert images_to_settle(row, 1) == pytest.approx(expected, rel=0.01)


def test_seeds_cannot_settle_image_variance():
    row = expected_difference(0.01, seed_sd=0.001, image_sd=0.1, rest_sd=0.0, seeds=3, images=100)
    assert seeds_to_settle(row, 1) is None  # the standard error of the images equals the difference
    assert images_to_settle(row, 1) > 100


def test_seeds_settle_an_image_part_that_is_all_rest():
    """The estimated image part is the same, but all of it is rest, which shrinks with the seeds."""
    row = expected_difference(0.01, seed_sd=0.001, image_sd=0.0, rest_sd=0.1 * math.sqrt(3), seeds=3, images=100)
    assert row.image_variance == pytest.approx(0.01)
    assert 30 < seeds_to_settle(row, 1) < 60


def test_images_cannot_settle_seed_variance():
    row = expected_difference(0.01, seed_sd=0.01, image_sd=0.02, rest_sd=0.05, seeds=3, images=100)
    assert images_to_settle(row, 1) is None
    assert seeds_to_settle(row, 1) > 3


def test_more_comparisons_and_more_power_need_more_seeds():
    row = expected_difference(0.02, **SETTLE[0], seeds=3, images=200)
    assert seeds_to_settle(row, 1) < seeds_to_settle(row, 3) < seeds_to_settle(row, 3, power=0.95)
    assert seeds_to_settle(row, 3, most=5) is None


def test_a_difference_of_zero_is_never_settled():
    assert seeds_to_settle(difference(0.0), 1) is None
    assert images_to_settle(difference(0.0), 1) is None
