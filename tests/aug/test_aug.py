from types import SimpleNamespace

import numpy as np
import pytest

from rp2k_lab.aug import ColorJitter, Cutout, HorizontalFlip, RandomResizedCrop, build_augmentation

OPERATIONS = {
    "crop": RandomResizedCrop((40, 30)),
    "flip": HorizontalFlip(0.5),
    "always flip": HorizontalFlip(1.0),
    "color": ColorJitter(0.4),
    "cutout": Cutout(12, (10, 20, 30)),
}


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def image():
    return rng().integers(0, 256, (40, 30, 3), np.uint8)


@pytest.mark.parametrize("name", OPERATIONS)
class TestEveryOperation:
    def test_keeps_type_and_shape(self, name, image):
        result = OPERATIONS[name](image, rng())
        assert (result.dtype, result.shape) == (np.uint8, (40, 30, 3))

    def test_leaves_its_input_alone(self, name, image):
        before = image.copy()
        for seed in range(5):
            OPERATIONS[name](image, rng(seed))
        np.testing.assert_array_equal(image, before)

    def test_is_a_pure_function_of_the_generator(self, name, image):
        first = [OPERATIONS[name](image, rng(seed)) for seed in range(4)]
        again = [OPERATIONS[name](image, rng(seed)) for seed in (3, 2, 1, 0)][::-1]
        np.testing.assert_array_equal(first, again)

    def test_draws_the_same_numbers_from_any_photo_of_a_shape(self, name, image):
        """So that a photo's content does not move the augmentation that follows."""
        one, other = rng(), rng()
        OPERATIONS[name](image, one)
        OPERATIONS[name](np.zeros_like(image), other)
        assert one.random() == other.random()


@pytest.mark.parametrize("name", ["crop", "flip", "color", "cutout"])
def test_other_generators_give_other_images(name, image):
    assert len({OPERATIONS[name](image, rng(seed)).tobytes() for seed in range(20)}) > 1


def kolmogorov_smirnov(values):
    """Largest distance of the values' distribution from the uniform one on 0 to 1."""
    values, n = np.sort(values), len(values)
    return max((np.arange(1, n + 1) / n - values).max(), (values - np.arange(n) / n).max())


@pytest.fixture(scope="module")
def boxes():
    """2000 drawn boxes.  A side is at most sqrt(0.5 · 4/3) of the image's: every draw fits, so nothing is redrawn."""
    crop, generator = RandomResizedCrop((8, 8), area=(0.1, 0.5)), rng()
    return np.array([crop._box(1000, 1000, generator) for _ in range(2000)])


class TestRandomResizedCrop:
    def test_area_is_uniform_in_its_range(self, boxes):
        area = boxes[:, 2] * boxes[:, 3] / 1e6
        # 1.95 / sqrt(n) is the critical distance at a level of 0.1 %.
        assert kolmogorov_smirnov((area - 0.1) / 0.4) < 1.95 / np.sqrt(len(boxes))

    def test_ratio_is_log_uniform_in_its_range(self, boxes):
        ratio = np.log(boxes[:, 3] / boxes[:, 2])
        assert kolmogorov_smirnov((ratio / np.log(4 / 3) + 1) / 2) < 1.95 / np.sqrt(len(boxes))

    def test_boxes_reach_every_border(self, boxes):
        top, left, height, width = boxes.T
        assert ((top >= 0) & (left >= 0) & (top + height <= 1000) & (left + width <= 1000)).all()
        place = top / (1000 - height)
        assert kolmogorov_smirnov(place) < 1.95 / np.sqrt(len(boxes))

    @pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1), (90, 30), (48, 48)])
    def test_box_is_inside_whatever_the_shape(self, shape):
        crop, generator = RandomResizedCrop((4, 4)), rng()
        for _ in range(50):
            top, left, height, width = crop._box(*shape, generator)
            assert height >= 1
            assert width >= 1
            assert 0 <= top <= shape[0] - height
            assert 0 <= left <= shape[1] - width

    def test_falls_back_to_the_largest_centred_part(self):
        """A strip of 20×400 cannot hold half its area at a ratio of at most 4/3."""
        crop = RandomResizedCrop((4, 4), area=(0.5, 0.5))
        assert crop._box(20, 400, rng()) == (0, (400 - 27) // 2, 20, 27)
        assert crop._box(400, 20, rng()) == ((400 - 27) // 2, 0, 27, 20)

    def test_whole_image_is_its_bilinear_resize(self, image):
        square = image[:30]
        crop = RandomResizedCrop((30, 30), area=(1.0, 1.0), ratio=(1.0, 1.0))
        np.testing.assert_array_equal(crop(square, rng()), square)

    def test_size_is_height_and_width(self, image):
        assert RandomResizedCrop((16, 24))(image, rng()).shape == (16, 24, 3)


class TestHorizontalFlip:
    def test_mirrors_left_and_right(self, image):
        np.testing.assert_array_equal(HorizontalFlip(1.0)(image, rng()), image[:, ::-1])

    def test_never_at_probability_zero(self, image):
        np.testing.assert_array_equal(HorizontalFlip(0.0)(image, rng()), image)

    @pytest.mark.parametrize("p", [0.2, 0.5])
    def test_flips_with_its_probability(self, p, image):
        flip, generator = HorizontalFlip(p), rng()
        flipped = sum((flip(image, generator)[0, 0] == image[0, -1]).all() for _ in range(2000))
        assert flipped / 2000 == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 2000))


class TestColorJitter:
    def test_is_the_identity_without_strength(self, image):
        np.testing.assert_allclose(ColorJitter(0.0)(image, rng()), image, atol=1)

    def test_grey_changes_by_brightness_alone_and_within_bounds(self):
        """A flat grey image has neither contrast nor colour, so what remains is brightness in 1 ± strength."""
        grey = np.full((6, 6, 3), 100, np.uint8)
        values = []
        for seed in range(300):
            result = ColorJitter(0.4)(grey, rng(seed))
            assert np.ptp(result) == 0
            values.append(int(result[0, 0, 0]))
        assert 58 <= min(values) < 63
        assert 137 < max(values) <= 142

    def test_saturation_moves_colour_and_leaves_greyness(self):
        red = np.full((4, 4, 3), (200, 100, 100), np.uint8)
        spreads = [int(np.ptp(ColorJitter(0.4)(red, rng(seed))[0, 0])) for seed in range(200)]
        # Each of the three factors scales the distance of the channels: 0.6³ to 1.4³ of 100.
        assert 100 * 0.6**3 - 2 <= min(spreads) < 60
        assert 140 < max(spreads) <= 100 * 1.4**3 + 2

    def test_saturates_instead_of_wrapping(self):
        white = np.full((4, 4, 3), 255, np.uint8)
        assert min(ColorJitter(0.4)(white, rng(seed)).min() for seed in range(50)) > 0.6 * 255 - 3

    def test_factors_equal_the_formulas(self, image):
        from rp2k_lab.aug import _brightness, _contrast, _saturation

        pixels = image.astype(float)
        grey = np.round(pixels @ [0.299, 0.587, 0.114])[..., None]
        clip = lambda x: np.clip(x, 0, 255)  # noqa: E731
        np.testing.assert_allclose(_brightness(image, 1.3), clip(1.3 * pixels), atol=1)
        np.testing.assert_allclose(_contrast(image, 0.7), clip(0.7 * pixels + 0.3 * grey.mean()), atol=1)
        np.testing.assert_allclose(_saturation(image, 1.4), clip(1.4 * pixels - 0.4 * grey), atol=1.5)


@pytest.fixture(scope="module")
def masks():
    """Which pixels were filled, for 400 draws on a black 20×30 image."""
    black = np.zeros((20, 30, 3), np.uint8)
    results = np.array([Cutout(7, (9, 8, 7))(black, rng(seed)) for seed in range(400)])
    filled = results.any(-1)
    assert (results[filled] == (9, 8, 7)).all()
    return filled


class TestCutout:
    def test_is_one_square_cut_by_the_border(self, masks):
        for mask in masks:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert mask.sum() == height * width
            assert height == 7 or {rows[0], rows[-1]} & {0, 19}
            assert width == 7 or {columns[0], columns[-1]} & {0, 29}

    def test_fills_exactly_its_area_when_inside(self, masks):
        inside = ~(masks[:, 0].any(1) | masks[:, -1].any(1) | masks[:, :, 0].any(1) | masks[:, :, -1].any(1))
        assert inside.sum() > 50
        assert set(masks[inside].sum((1, 2))) == {49}

    def test_is_cut_at_every_border_but_never_empty(self, masks):
        area = masks.sum((1, 2))
        # The centre is always in the image, so at least 4×4 of the 7×7 are.
        assert 16 <= area.min() < 49
        assert area.max() == 49
        assert all(border.any() for border in (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]))

    @pytest.mark.parametrize(
        ("centre", "rows", "columns"),
        [
            ((10, 15), (7, 13), (12, 18)),
            ((0, 0), (0, 3), (0, 3)),
            ((19, 29), (16, 19), (26, 29)),
            ((0, 15), (0, 3), (12, 18)),
            ((10, 1), (7, 13), (0, 4)),
        ],
    )
    def test_square_lies_around_its_centre(self, centre, rows, columns):
        drawn = iter(centre)
        mask = Cutout(7, (1, 1, 1))(np.zeros((20, 30, 3), np.uint8), SimpleNamespace(integers=lambda _: next(drawn)))[
            ..., 0
        ]
        expected = np.zeros_like(mask)
        expected[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = 1
        np.testing.assert_array_equal(mask, expected)

    @pytest.mark.parametrize("length", [1, 2, 6, 200])
    def test_even_and_extreme_lengths(self, length):
        black = np.zeros((20, 20, 3), np.uint8)
        areas = [Cutout(length, (1, 1, 1))(black, rng(seed)).any(-1).sum() for seed in range(60)]
        assert min(areas) >= 1
        assert max(areas) == min(length, 20) ** 2


def options(**changes):
    return SimpleNamespace(**{"name": "none", "crop": None, "flip": 0.0, "color": 0.0} | changes)


class TestBuild:
    def test_all_off_is_nothing(self):
        assert build_augmentation(options(), (48, 48), (0.5, 0.5, 0.5)) == (None, [])

    def test_baseline(self):
        crop, operations = build_augmentation(options(crop=(0.3, 0.9), flip=0.25, color=0.4), (32, 48), (0.5, 0.5, 0.5))
        assert (crop.size, crop.area) == ((32, 48), (0.3, 0.9))
        assert [type(operation) for operation in operations] == [HorizontalFlip, ColorJitter]
        assert (operations[0].p, operations[1].strength) == (0.25, 0.4)

    @pytest.mark.parametrize(("size", "length"), [((224, 224), 14), ((112, 112), 7), ((448, 224), 14), ((32, 32), 2)])
    def test_cutout_comes_last_with_its_length_in_proportion(self, size, length):
        _, operations = build_augmentation(options(name="cutout", length=14, flip=0.5), size, (0.5, 0.25, 0.0))
        assert [type(operation) for operation in operations] == [HorizontalFlip, Cutout]
        assert operations[-1].length == length

    def test_cutout_fills_with_the_mean(self):
        _, (cutout,) = build_augmentation(options(name="cutout", length=14), (224, 224), (0.4716, 0.4250, 0.3540))
        assert cutout.fill.tolist() == [120, 108, 90]

    def test_cutout_has_at_least_a_pixel(self):
        _, (cutout,) = build_augmentation(options(name="cutout", length=1), (32, 32), (0, 0, 0))
        assert cutout.length == 1
