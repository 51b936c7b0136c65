from collections import Counter

import numpy as np
import pytest

from rp2k_lab.aug import transforms
from rp2k_lab.aug.magnitudes import ARGUMENTS
from rp2k_lab.aug.policy.autoaugment import AUTOAUGMENT_ARGUMENTS, IMAGENET_POLICY, AutoAugment
from rp2k_lab.aug.policy.randaugment import (
    INCREASING_ARGUMENTS,
    RANDAUGMENT_OPERATIONS,
    RandAugment,
    RandAugmentOptions,
)
from rp2k_lab.aug.policy.trivialaugment import TrivialAugment, wide_arguments

FILL = (120, 108, 90)
# (table, transformation, value at magnitude 0, value at magnitude 10 with the positive sign).
ENDS = [
    (ARGUMENTS, "Rotate", 0, 30),
    (ARGUMENTS, "ShearX", 0, 0.3),
    (ARGUMENTS, "ShearY", 0, 0.3),
    (ARGUMENTS, "TranslateX", 0, 0.45),
    (ARGUMENTS, "TranslateY", 0, 0.45),
    (ARGUMENTS, "Posterize", 0, 4),
    (ARGUMENTS, "Solarize", 0, 256),
    (ARGUMENTS, "SolarizeAdd", 0, 110),
    *((ARGUMENTS, name, 0.1, 1.9) for name in ("Color", "Contrast", "Brightness", "Sharpness")),
    (INCREASING_ARGUMENTS, "Rotate", 0, 30),
    (INCREASING_ARGUMENTS, "Posterize", 4, 0),
    (INCREASING_ARGUMENTS, "Solarize", 256, 0),
    (INCREASING_ARGUMENTS, "SolarizeAdd", 0, 110),
    *((INCREASING_ARGUMENTS, name, 1, 1.9) for name in ("Color", "Contrast", "Brightness", "Sharpness")),
    (AUTOAUGMENT_ARGUMENTS, "Posterize", 4, 8),
    (AUTOAUGMENT_ARGUMENTS, "Solarize", 0, 256),
    (AUTOAUGMENT_ARGUMENTS, "Color", 0.1, 1.9),
]


class TestMagnitudes:
    @pytest.mark.parametrize(("table", "name", "at_0", "at_10"), ENDS)
    def test_ends(self, table, name, at_0, at_10):
        assert table[name](0.0, 1) == (pytest.approx(at_0),)
        assert table[name](1.0, 1) == (pytest.approx(at_10),)

    @pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
    @pytest.mark.parametrize("table", [ARGUMENTS, INCREASING_ARGUMENTS, AUTOAUGMENT_ARGUMENTS])
    def test_geometric_values_have_both_signs(self, table, name):
        assert table[name](0.9, -1)[0] == -table[name](0.9, 1)[0] != 0

    def test_increasing_enhancements_have_both_directions(self):
        assert INCREASING_ARGUMENTS["Color"](0.9, 1) == (pytest.approx(1.81),)
        assert INCREASING_ARGUMENTS["Color"](0.9, -1) == (pytest.approx(0.19),)
        assert INCREASING_ARGUMENTS["Color"](1.0, -1) == (pytest.approx(0.1),)
        assert ARGUMENTS["Color"](0.9, -1) == ARGUMENTS["Color"](0.9, 1) == (pytest.approx(1.72),)

    @pytest.mark.parametrize("name", ["AutoContrast", "Equalize", "Invert"])
    def test_transformations_without_arguments(self, name):
        assert ARGUMENTS[name](0.9, 1) == ()

    @pytest.mark.parametrize("table", [ARGUMENTS, INCREASING_ARGUMENTS])
    def test_magnitudes_above_10_stay_in_the_transformations_range(self, table):
        for name, low, high in [("Posterize", 0, 12), ("Solarize", 0, 256), ("SolarizeAdd", 0, 128), ("Color", 0.1, 9)]:
            for sign in (1, -1):
                assert low <= table[name](3.0, sign)[0] <= high

    @pytest.mark.parametrize(("draw", "degrees"), [(0.49, 27), (0.51, -27)])
    def test_a_step_applies_the_transformation_at_its_magnitude_and_sign(self, draw, degrees, image):
        result = AutoAugment(FILL)._apply(image.copy(), "Rotate", 9, draw)
        np.testing.assert_array_equal(result, transforms.rotate(image.copy(), degrees, FILL))


class TestTables:
    def test_imagenet_policy_equals_the_papers(self):
        """25 pairs, the counts of each transformation, and the sums of probabilities and magnitudes in table 9."""
        assert [len(pair) for pair in IMAGENET_POLICY] == [2] * 25
        steps = [step for pair in IMAGENET_POLICY for step in pair]
        assert Counter(name for name, _, _ in steps) == {
            "Equalize": 17, "Solarize": 7, "Rotate": 6, "Color": 6, "Posterize": 5, "Invert": 3, "AutoContrast": 2,
            "Contrast": 2, "Sharpness": 1, "ShearX": 1,
        }  # fmt: skip
        assert sum(p for _, p, _ in steps) == pytest.approx(31.0)
        assert sum(magnitude for _, _, magnitude in steps) == 287
        assert IMAGENET_POLICY[0] == (("Posterize", 0.4, 8), ("Rotate", 0.6, 9))
        assert IMAGENET_POLICY[24] == (("Equalize", 0.8, 8), ("Equalize", 0.6, 3))

    def test_randaugments_sets(self):
        paper, timm = (set(RANDAUGMENT_OPERATIONS[name]) for name in ("paper", "timm"))
        assert (len(RANDAUGMENT_OPERATIONS["paper"]), len(RANDAUGMENT_OPERATIONS["timm"])) == (14, 15)
        assert paper - timm == {"Identity"}
        assert timm - paper == {"Invert", "SolarizeAdd"}

    def test_every_name_has_arguments_and_a_transformation(self):
        names = {name for pair in IMAGENET_POLICY for name, _, _ in pair}.union(*RANDAUGMENT_OPERATIONS.values())
        assert names == set(ARGUMENTS) == set(INCREASING_ARGUMENTS) == set(AUTOAUGMENT_ARGUMENTS)
        assert names == set(AutoAugment(FILL).transforms)


def randaugment(**changes):
    paper = {
        "operations": "paper", "num_ops": 2, "p": 1.0, "magnitude": 9, "magnitude_std": 0.0, "magnitude_max": 10,
        "increasing": False,
    }  # fmt: skip
    return RandAugment(RandAugmentOptions(name="randaugment", **paper | changes), FILL)


@pytest.fixture
def applied(monkeypatch, rng):
    """Return applied(policy, images): for each of a number of images its steps (name, magnitude, sign's draw)."""

    def record(policy, images):
        steps, generator = [], rng()

        def note(image, *step):
            steps[-1].append(step)
            return image

        monkeypatch.setattr(policy, "_apply", note)
        for _ in range(images):
            steps.append([])
            policy(None, generator)
        return steps

    return record


class TestAutoAugment:
    def test_pairs_are_equally_likely_and_steps_have_their_probability(self, applied, assert_rate):
        """A step's rate is its probability / 25, summed over its occurrences."""
        images = applied(AutoAugment(FILL), 5000)
        lengths = [len(image) for image in images]
        assert np.mean(lengths) == pytest.approx(31 / 25, abs=4 * np.std(lengths) / np.sqrt(5000))
        steps = Counter(step[:2] for image in images for step in image)
        expected = Counter()
        for pair in IMAGENET_POLICY:
            for name, p, magnitude in pair:
                expected[name, magnitude] += p / 25
        assert set(steps) <= set(expected)
        for step, p in expected.items():
            assert_rate(steps[step], 5000, p)

    def test_steps_keep_their_order(self, applied):
        pairs = {tuple((name, magnitude) for name, _, magnitude in pair) for pair in IMAGENET_POLICY}
        both = {tuple(step[:2] for step in image) for image in applied(AutoAugment(FILL), 2000) if len(image) == 2}
        assert both <= pairs
        assert len(both) > 15

    def test_signs_are_equally_likely(self, applied, assert_rate):
        draws = [step[2] < 0.5 for image in applied(AutoAugment(FILL), 2000) for step in image]
        assert_rate(sum(draws), len(draws), 0.5)


class TestRandAugment:
    @pytest.mark.parametrize("operations", ["paper", "timm"])
    def test_transformations_are_equally_likely(self, operations, applied, assert_rate):
        images = applied(randaugment(operations=operations), 3000)
        assert {len(image) for image in images} == {2}
        names = Counter(name for image in images for name, _, _ in image)
        assert set(names) == set(RANDAUGMENT_OPERATIONS[operations])
        for count in names.values():
            assert_rate(count, 6000, 1 / len(names))

    def test_is_drawn_with_replacement(self, applied, assert_rate):
        images = applied(randaugment(), 3000)
        assert_rate(sum(first[0] == second[0] for first, second in images), 3000, 1 / 14)

    @pytest.mark.parametrize("num_ops", [1, 5])
    def test_number_of_transformations(self, num_ops, applied):
        assert {len(image) for image in applied(randaugment(num_ops=num_ops), 50)} == {num_ops}

    def test_probability_of_each(self, applied, assert_rate):
        lengths = [len(image) for image in applied(randaugment(p=0.3), 2000)]
        assert_rate(sum(lengths), 4000, 0.3)
        assert_rate(lengths.count(2), 2000, 0.09)

    def test_magnitude_is_fixed(self, applied):
        assert {step[1] for image in applied(randaugment(magnitude=7), 50) for step in image} == {7}

    def test_magnitude_is_normal_and_clipped_at_its_limits(self, applied):
        magnitudes = np.array([s[1] for i in applied(randaugment(magnitude_std=0.5), 2000) for s in i])
        assert magnitudes.max() == 10
        # P(N(9, 0.5²) > 10) = 0.0228; four standard deviations of 4000 draws.
        assert (magnitudes == 10).mean() == pytest.approx(0.0228, abs=4 * np.sqrt(0.0228 / 4000))
        assert np.median(magnitudes) == pytest.approx(9, abs=4 * 1.2533 * 0.5 / np.sqrt(4000))
        below = magnitudes[magnitudes < 9] - 9
        assert np.sqrt((below**2).mean()) == pytest.approx(0.5, rel=4 / np.sqrt(2 * len(below)))

    def test_magnitudes_are_limited_to_0_and_magnitude_max(self, applied):
        images = applied(randaugment(magnitude=15, magnitude_max=20, magnitude_std=20.0), 500)
        magnitudes = [step[1] for image in images for step in image]
        assert (min(magnitudes), max(magnitudes)) == (0, 20)

    def test_each_step_has_its_own_magnitude(self, applied):
        images = applied(randaugment(magnitude=5, magnitude_std=1.0), 50)
        assert all(first[1] != second[1] for first, second in images)

    def test_increasing_at_magnitude_0_changes_neither_geometry_nor_enhancements(self, image):
        """Autocontrast, equalize and posterize to 4 bits remain."""
        policy = randaugment(increasing=True, magnitude=0)
        unchanged = {name for name in policy.operations if (policy._apply(image.copy(), name, 0, 0.0) == image).all()}
        assert set(policy.operations) - unchanged <= {"AutoContrast", "Equalize", "Posterize"}

    def test_increasing_uses_its_table(self):
        assert randaugment(increasing=True).arguments is INCREASING_ARGUMENTS
        assert randaugment().arguments is ARGUMENTS


@pytest.fixture(scope="module")
def steps(rng):
    """Return the (name, arguments) of 20,000 images of 224×224."""
    policy, generator, steps = TrivialAugment((224, 224), FILL), rng(), []

    def note(name):
        return lambda image, *arguments: steps.append((name, arguments))

    policy.transforms = {name: note(name) for name in policy.transforms}
    for _ in range(20_000):
        policy(None, generator)
    return steps


class TestTrivialAugment:
    """Müller & Hutter, arXiv 2103.10158, with the ranges of torchvision's TrivialAugmentWide."""

    def test_applies_one_of_14_equally_likely_transformations(self, steps, assert_rate):
        assert len(steps) == 20_000
        counts = Counter(name for name, _ in steps)
        assert set(counts) == set(RANDAUGMENT_OPERATIONS["paper"])
        for count in counts.values():
            assert_rate(count, 20_000, 1 / 14)

    def test_31_equally_likely_magnitudes_of_both_signs(self, steps, assert_rate):
        degrees = [arguments[0] for name, arguments in steps if name == "Rotate"]
        counts = Counter(round(abs(value) / 4.5) for value in degrees)
        assert np.allclose(np.abs(degrees), [4.5 * round(abs(value) / 4.5) for value in degrees])
        assert sorted(counts) == list(range(31))
        for count in counts.values():
            assert_rate(count, len(degrees), 1 / 31)
        turned = [value > 0 for value in degrees if value]
        assert_rate(sum(turned), len(turned), 0.5)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("ShearX", [0.033 * bin for bin in range(31)]),
            ("ShearY", [0.033 * bin for bin in range(31)]),
            ("TranslateX", [32 * bin // 30 / 224 for bin in range(31)]),
            ("TranslateY", [32 * bin // 30 / 224 for bin in range(31)]),
            ("Rotate", [4.5 * bin for bin in range(31)]),
            *(
                (name, [1 + 0.033 * bin for bin in range(31)])
                for name in ("Brightness", "Color", "Contrast", "Sharpness")
            ),
            ("Posterize", [8 - round(bin / 5) for bin in range(31)]),
            ("Solarize", [255 - 17 * bin // 2 for bin in range(31)]),
        ],
    )
    def test_ranges(self, name, values):
        """torchvision inverts values of at least 255 - 8.5 · bin: of whole numbers, its ceiling."""
        arguments = wide_arguments((224, 224))[name]
        assert [arguments(bin / 30, 1) for bin in range(31)] == [(pytest.approx(value),) for value in values]

    @pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Sharpness"])
    def test_enhancements_have_both_directions(self, name):
        assert wide_arguments((32, 32))[name](1.0, -1) == (pytest.approx(0.01),)

    @pytest.mark.parametrize("name", ["Posterize", "Solarize"])
    def test_transformations_without_direction(self, name):
        arguments = wide_arguments((32, 32))[name]
        assert [arguments(bin / 30, 1) for bin in range(31)] == [arguments(bin / 30, -1) for bin in range(31)]

    @pytest.mark.parametrize(("size", "right", "down"), [((224, 224), 32, 32), ((112, 300), 16, 16), ((32, 32), 4, 4)])
    def test_translations_are_whole_pixels_in_proportion_to_the_smaller_side(self, size, right, down, rng):
        image, policy = rng().integers(0, 256, (*size, 3), np.uint8), TrivialAugment(size, FILL)
        moved = policy.transforms["TranslateX"](image.copy(), *policy.arguments["TranslateX"](1.0, 1))
        np.testing.assert_array_equal(moved[:, :-right], image[:, right:])
        assert (moved[:, -right:] == FILL).all()
        moved = policy.transforms["TranslateY"](image.copy(), *policy.arguments["TranslateY"](1.0, -1))
        np.testing.assert_array_equal(moved[down:], image[:-down])
        assert (moved[:down] == FILL).all()

    def test_magnitude_0_changes_only_autocontrast_and_equalize(self, image):
        policy = TrivialAugment((40, 30), FILL)
        changed = {
            name
            for name, apply in policy.transforms.items()
            if name in policy.arguments and (apply(image.copy(), *policy.arguments[name](0.0, 1)) != image).any()
        }
        # At magnitude 0 torchvision's solarize inverts the value 255.
        assert changed <= {"AutoContrast", "Equalize", "Solarize"}
