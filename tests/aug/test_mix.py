from types import SimpleNamespace

import numpy as np
import pytest

from rp2k_lab.aug.augmentation import soft_targets
from rp2k_lab.aug.mix.cutmix import CutMix
from rp2k_lab.aug.mix.mixup import Mixup

MIXES = {"mixup": Mixup(0.2), "mixup 1": Mixup(1.0), "cutmix": CutMix(1.0, 1.0), "cutmix, half": CutMix(1.0, 0.5)}


@pytest.fixture
def images(rng):
    return rng().integers(0, 256, (5, 12, 17, 3), np.uint8)


@pytest.fixture
def rngs(rng):
    return lambda n=5: [rng(seed) for seed in range(n)]


@pytest.mark.parametrize("name", MIXES)
class TestEveryMix:
    def test_types_and_shapes(self, name, images, rngs):
        mixed, weights = MIXES[name](images, rngs())
        assert (mixed.dtype, mixed.shape, mixed.flags.c_contiguous) == (np.uint8, images.shape, True)
        assert (weights.dtype, weights.shape) == (np.float32, (5,))
        assert ((weights >= 0) & (weights <= 1)).all()

    def test_does_not_change_its_input(self, name, images, rngs):
        before = images.copy()
        mixed, _ = MIXES[name](images, rngs())
        np.testing.assert_array_equal(images, before)
        assert not np.shares_memory(mixed, images)

    def test_is_a_pure_function_of_the_generators(self, name, images, rngs):
        first, again = MIXES[name](images, rngs()), MIXES[name](images, rngs())
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])

    def test_an_image_depends_only_on_itself_its_partner_and_its_generator(self, name, images, rngs, rng):
        others = images.copy()
        others[[0, 2, 4]] = 255 - others[[0, 2, 4]]
        generators = rngs()
        generators[0], generators[2], generators[4] = rng(10), rng(11), rng(12)
        one, other = MIXES[name](images, rngs()), MIXES[name](others, generators)
        for part, changed in zip(one, other, strict=True):
            np.testing.assert_array_equal(part[[1, 3]], changed[[1, 3]])

    def test_draws_do_not_depend_on_the_pixels(self, name, images, rngs):
        one, other = rngs(), rngs()
        MIXES[name](images, one)
        MIXES[name](np.zeros_like(images), other)
        assert [generator.random() for generator in one] == [generator.random() for generator in other]

    def test_middle_image_of_an_odd_batch_does_not_change(self, name, images, rngs):
        np.testing.assert_array_equal(MIXES[name](images, rngs())[0][2], images[2])

    @pytest.mark.parametrize("shape", [(1, 4, 4, 3), (2, 1, 1, 3), (3, 1, 30, 3)])
    def test_small_batches_and_images(self, name, shape, rngs):
        mixed, weights = MIXES[name](np.ones(shape, np.uint8), rngs(shape[0]))
        assert (mixed == 1).all()
        assert np.isfinite(weights).all()


class TestMixup:
    def test_blends_with_the_original_partner(self, images, rngs):
        mixed, weights = Mixup(1.0)(images, rngs())
        weights = weights[:, None, None, None].astype(float)
        np.testing.assert_allclose(mixed, weights * images + (1 - weights) * images[::-1], atol=0.51)

    @pytest.mark.parametrize(
        ("alpha", "cumulative"), [(1.0, lambda x: x), (0.5, lambda x: 2 / np.pi * np.arcsin(np.sqrt(x)))]
    )
    def test_weights_have_the_beta_distribution(self, alpha, cumulative, rngs, assert_uniform):
        _, weights = Mixup(alpha)(np.zeros((1500, 1, 1, 3), np.uint8), rngs(1500))
        assert_uniform(cumulative(weights))

    def test_variance_at_the_papers_alpha(self, rngs):
        """1 / (4 (2 · 0.2 + 1)) = 0.1786; the fourth moment makes its standard error 0.0018 at 3000 draws."""
        _, weights = Mixup(0.2)(np.zeros((3000, 1, 1, 3), np.uint8), rngs(3000))
        assert weights.var() == pytest.approx(0.1786, abs=4 * 0.0018)
        assert weights.mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.1786 / 3000))

    @pytest.mark.parametrize("alpha", [1e-3, 1e3])
    def test_extreme_alphas(self, alpha, images, rngs):
        _, weights = Mixup(alpha)(images, rngs())
        assert np.isfinite(weights).all()
        assert (abs(weights - 0.5) < 0.1).all() == (alpha > 1)


def stub(weight, drawn=0.0, center=(0.5, 0.5)):
    return SimpleNamespace(beta=lambda a, b: weight, random=lambda size: np.array([drawn, *center]))


class TestCutMix:
    @pytest.fixture
    def two(self):
        """Return an image of ones and its partner of twos."""
        return np.stack([np.full((20, 40, 3), value, np.uint8) for value in (1, 2)])

    def test_weight_is_the_fraction_of_original_pixels(self, two, rng):
        cut = 0
        for seed in range(200):
            mixed, weights = CutMix(1.0, 1.0)(two, [rng(seed), rng(seed + 1000)])
            assert [(mixed[0] == 1).mean(), (mixed[1] == 2).mean()] == pytest.approx(weights.tolist())
            assert np.isin(mixed, (1, 2)).all()
            cut += weights[0] < 1
        assert cut > 190

    def test_pasted_pixels_come_from_the_same_place(self, images, rngs):
        mixed, _ = CutMix(1.0, 1.0)(images, rngs())
        original = (mixed == images).all(-1)
        assert not original.all()
        np.testing.assert_array_equal(mixed[~original], images[::-1][~original])

    @pytest.mark.parametrize(
        ("weight", "center", "rows", "columns"),
        [
            (0.75, (0.5, 0.5), (5, 15), (10, 30)),  # half of each side
            (0.75, (0.0, 0.0), (0, 5), (0, 10)),
            (0.75, (0.99, 0.99), (14, 20), (29, 40)),
            (0.0, (0.5, 0.5), (0, 20), (0, 40)),
            (1.0, (0.5, 0.5), (10, 10), (20, 20)),
        ],
    )
    def test_rectangle_has_the_images_proportions_around_its_center(self, two, weight, center, rows, columns):
        mixed, weights = CutMix(1.0, 1.0)(two, [stub(weight, center=center), stub(1.0)])
        expected = two[0].copy()
        expected[slice(*rows), slice(*columns)] = 2
        np.testing.assert_array_equal(mixed[0], expected)
        np.testing.assert_array_equal(mixed[1], two[1])
        assert weights[0] == pytest.approx((expected == 1).mean())

    def test_area_before_the_cut_is_uniform_at_the_papers_alpha(self, rng, assert_uniform):
        generator = rng()
        middle = SimpleNamespace(beta=generator.beta, random=lambda size: np.array([0.0, 0.5, 0.5]))
        boxes = [CutMix(1.0, 1.0)._box(1000, 1000, middle) for _ in range(1000)]
        assert_uniform(np.array([(rows.stop - rows.start) ** 2 / 1e6 for rows, _ in boxes]))

    def test_center_is_uniform(self, rng, assert_uniform):
        """A rectangle of 2×2 pixels, so that the border cuts hardly any."""
        generator = rng()
        small = SimpleNamespace(beta=lambda a, b: 1 - 4e-6, random=generator.random)
        boxes = [CutMix(1.0, 1.0)._box(1000, 1000, small) for _ in range(1000)]
        assert_uniform(np.array([rows.stop - 1 for rows, _ in boxes]) / 1000)
        assert_uniform(np.array([columns.stop - 1 for _, columns in boxes]) / 1000)

    def test_probability(self, rng, assert_rate):
        images = np.repeat(np.arange(2, dtype=np.uint8), 500)[:, None, None, None] * np.ones((1, 30, 30, 3), np.uint8)
        _, weights = CutMix(1.0, 0.5)(images, [rng(seed) for seed in range(1000)])
        # A rectangle with sides below half a pixel is empty: 1 - weight < 1/3600, one in 3600.
        assert_rate((weights < 1).sum(), 1000, 0.5)


class TestSoftTargets:
    def test_weights_of_both_labels(self):
        targets = soft_targets(np.array([2, 0, 1], np.int32), np.array([0.75, 0.5, 1.0], np.float32), 4)
        assert targets.dtype == np.float32
        assert targets.tolist() == [[0, 0.25, 0.75, 0], [1, 0, 0, 0], [0, 1, 0, 0]]

    def test_rows_sum_to_one_even_for_equal_labels(self, rng):
        labels, weights = rng().integers(0, 3, 64, np.int32), rng(1).random(64, np.float32)
        targets = soft_targets(labels, weights, 3)
        assert (labels == labels[::-1]).sum() > 4
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        assert (targets >= 0).all()

    def test_weights_of_one_are_one_hot(self):
        labels = np.array([3, 1, 4, 1], np.int32)
        np.testing.assert_array_equal(
            soft_targets(labels, np.ones(4, np.float32), 5), np.eye(5, dtype=np.float32)[labels]
        )
