from types import SimpleNamespace

import numpy as np
import pytest

from rp2k_lab.aug.erase.cutout import Cutout
from rp2k_lab.aug.erase.random_erasing import RandomErasing


@pytest.fixture(scope="module")
def masks(rng):
    """Return the filled pixels of 400 draws on a black 20×30 image, bool (400, 20, 30)."""
    results = np.array([Cutout(7, (9, 8, 7))(np.zeros((20, 30, 3), np.uint8), rng(seed)) for seed in range(400)])
    filled = results.any(-1)
    assert (results[filled] == (9, 8, 7)).all()
    return filled


def rectangle(mask):
    """Return (top, left, height, width) of the filled pixels, and assert that they are a rectangle."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert mask.sum() == height * width
    return rows[0], columns[0], height, width


class TestCutout:
    def test_is_one_square_cut_by_the_border(self, masks):
        for mask in masks:
            top, left, height, width = rectangle(mask)
            assert height == 7 or top == 0 or top + height == 20
            assert width == 7 or left == 0 or left + width == 30

    def test_fills_exactly_its_area_when_inside(self, masks):
        inside = ~(masks[:, 0].any(1) | masks[:, -1].any(1) | masks[:, :, 0].any(1) | masks[:, :, -1].any(1))
        assert inside.sum() > 50
        assert set(masks[inside].sum((1, 2))) == {49}

    def test_is_cut_at_every_border_but_never_empty(self, masks):
        area = masks.sum((1, 2))
        # The center is always in the image, hence at least 4×4 of the 7×7 pixels.
        assert 16 <= area.min() < 49
        assert area.max() == 49
        assert all(border.any() for border in (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]))

    @pytest.mark.parametrize(
        ("center", "rows", "columns"),
        [
            ((10, 15), (7, 13), (12, 18)),
            ((0, 0), (0, 3), (0, 3)),
            ((19, 29), (16, 19), (26, 29)),
            ((0, 15), (0, 3), (12, 18)),
            ((10, 1), (7, 13), (0, 4)),
        ],
    )
    def test_square_lies_around_its_center(self, center, rows, columns):
        drawn = (np.array(center) + 0.5) / (20, 30)
        generator = SimpleNamespace(random=lambda size: drawn)
        mask = Cutout(7, (1, 1, 1))(np.zeros((20, 30, 3), np.uint8), generator)[..., 0]
        expected = np.zeros_like(mask)
        expected[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = 1
        np.testing.assert_array_equal(mask, expected)

    @pytest.mark.parametrize("length", [1, 2, 6, 200])
    def test_even_and_extreme_lengths(self, length, rng):
        blacks = [np.zeros((20, 20, 3), np.uint8) for _ in range(60)]
        areas = [Cutout(length, (1, 1, 1))(black, rng(seed)).any(-1).sum() for seed, black in enumerate(blacks)]
        assert min(areas) >= 1
        assert max(areas) == min(length, 20) ** 2

    def test_of_a_single_pixel(self, rng):
        assert Cutout(14, (5, 6, 7))(np.zeros((1, 1, 3), np.uint8), rng()).tolist() == [[[5, 6, 7]]]


PAPER = {"p": 0.5, "area": (0.02, 0.4), "ratio": 0.3}


def erasing(fill="white", **changes):
    return RandomErasing(**PAPER | changes, fill=fill, mean=(10, 20, 30))


@pytest.fixture(scope="module")
def boxes(rng):
    """Return 2000 boxes.  A side is at most sqrt(0.2 · 2) of the image's: every draw fits, so none is repeated."""
    operation, generator = erasing(area=(0.02, 0.2), ratio=0.5), rng()
    return np.array([operation._box(1000, 1000, generator) for _ in range(2000)])


class TestRandomErasing:
    def test_area_is_uniform_in_its_range(self, boxes, assert_uniform):
        assert_uniform((boxes[:, 2] * boxes[:, 3] / 1e6 - 0.02) / 0.18)

    def test_ratio_is_uniform_in_its_range(self, boxes, assert_uniform):
        assert_uniform((boxes[:, 2] / boxes[:, 3] - 0.5) / 1.5)

    def test_place_is_uniform_among_those_that_fit(self, boxes, assert_uniform):
        top, left, height, width = boxes.T
        assert_uniform((top + 0.5) / (1001 - height))
        assert_uniform((left + 0.5) / (1001 - width))

    @pytest.mark.parametrize(("draw", "place"), [(0.0, 0), (0.999, 10)])
    def test_reaches_every_border(self, draw, place):
        """A square of 14 pixels in one of 24."""
        draws = SimpleNamespace(random=lambda size: np.array([0.0, 0.0, draw, draw]))
        assert erasing(area=(196 / 576, 0.4), ratio=1.0)._box(24, 24, draws) == (place, place, 14, 14)

    def test_papers_settings_erase_one_rectangle_of_half_the_images(self, rng, assert_rate):
        """Within the paper's ranges, up to rounding of the rectangle's sides to whole pixels of 100×80."""
        erased = []
        for seed in range(600):
            mask = erasing()(np.zeros((100, 80, 3), np.uint8), rng(seed)).any(-1)
            if mask.any():
                erased.append(rectangle(mask)[2:])
        assert_rate(len(erased), 600, 0.5)
        height, width = np.array(erased).T
        assert ((height + 0.5) * (width + 0.5) >= 0.02 * 8000).all()
        assert ((height - 0.5) * (width - 0.5) <= 0.4 * 8000).all()
        assert ((height + 0.5) / (width - 0.5) >= 0.3).all()
        assert ((height - 0.5) / (width + 0.5) <= 1 / 0.3).all()
        assert height.max() > 80
        assert width.max() > 70

    @pytest.mark.parametrize(
        ("fill", "color"), [("mean", (10, 20, 30)), ("black", (0, 0, 0)), ("white", (255, 255, 255))]
    )
    def test_fills_with_its_color(self, fill, color, rng):
        gray = np.full((50, 50, 3), 77, np.uint8)
        result = erasing(fill, p=1.0)(gray.copy(), rng())
        changed = (result != gray).any(-1)
        rectangle(changed)
        assert (result[changed] == color).all()

    def test_random_fill_is_uniform_and_independent_for_each_value(self, rng):
        result = erasing("random", p=1.0, area=(1.0, 1.0), ratio=1.0)(np.zeros((120, 120, 3), np.uint8), rng())
        counts = np.bincount(result.ravel(), minlength=256)
        expected = result.size / 256
        # Chi-squared of 255 degrees of freedom: 330.5 is its 99.9th percentile.
        assert ((counts - expected) ** 2 / expected).sum() < 330.5
        assert abs(np.corrcoef(result.reshape(-1, 3).T)[~np.eye(3, dtype=bool)]).max() < 4 / 120

    def test_can_fill_the_whole_image(self, rng):
        assert erasing(p=1.0, area=(1.0, 1.0), ratio=1.0)(np.zeros((9, 9, 3), np.uint8), rng()).all()

    def test_a_rectangle_that_never_fits_changes_nothing(self, rng):
        """The whole area of a square at a ratio other than one."""
        black = np.zeros((50, 50, 3), np.uint8)
        draws = SimpleNamespace(random=lambda size=None: 0.0 if size is None else np.array([1.0, 0.0, 0.0, 0.0]))
        assert not erasing(p=1.0, area=(1.0, 1.0))(black, draws).any()

    @pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (2, 3)])
    @pytest.mark.parametrize("fill", ["random", "white"])
    def test_small_images(self, shape, fill, rng):
        for seed in range(50):
            assert erasing(fill, p=1.0)(np.zeros((*shape, 3), np.uint8), rng(seed)).shape == (*shape, 3)

    def test_never_at_probability_zero(self, rng):
        assert not any(erasing(p=0.0)(np.zeros((30, 30, 3), np.uint8), rng(seed)).any() for seed in range(50))
