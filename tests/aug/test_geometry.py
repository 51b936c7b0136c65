import numpy as np
import pytest

from rp2k_lab.aug.geometry import HorizontalFlip, RandomResizedCrop
from rp2k_lab.dataset.image import pad_to_center


@pytest.fixture(scope="module")
def boxes(rng):
    """Return 2000 boxes.  A side is at most sqrt(0.5 · 4/3) of the image's: every draw fits, so none is repeated."""
    crop, generator = RandomResizedCrop((8, 8), area=(0.1, 0.5)), rng()
    return np.array([crop.draw_box(1000, 1000, generator) for _ in range(2000)])


class TestRandomResizedCrop:
    def test_area_is_uniform_in_its_range(self, boxes, assert_uniform):
        assert_uniform((boxes[:, 2] * boxes[:, 3] / 1e6 - 0.1) / 0.4)

    def test_ratio_is_log_uniform_in_its_range(self, boxes, assert_uniform):
        assert_uniform((np.log(boxes[:, 3] / boxes[:, 2]) / np.log(4 / 3) + 1) / 2)

    def test_boxes_reach_every_border(self, boxes, assert_uniform):
        top, left, height, width = boxes.T
        assert ((top >= 0) & (left >= 0) & (top + height <= 1000) & (left + width <= 1000)).all()
        assert_uniform(top / (1000 - height))
        assert_uniform(left / (1000 - width))

    @pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1), (90, 30), (48, 48)])
    def test_box_is_inside_whatever_the_shape(self, shape, rng):
        crop, generator = RandomResizedCrop((4, 4)), rng()
        for _ in range(50):
            top, left, height, width = crop.draw_box(*shape, generator)
            assert height >= 1
            assert width >= 1
            assert 0 <= top <= shape[0] - height
            assert 0 <= left <= shape[1] - width

    def test_falls_back_to_the_largest_centered_part(self, rng):
        """A strip of 20×400 cannot hold half its area at a ratio of at most 4/3."""
        crop = RandomResizedCrop((4, 4), area=(0.5, 0.5))
        assert crop.draw_box(20, 400, rng()) == (0, (400 - 27) // 2, 20, 27)
        assert crop.draw_box(400, 20, rng()) == ((400 - 27) // 2, 0, 27, 20)

    def test_crop_of_the_whole_image_is_the_image(self, image, rng):
        square = image[:30]
        crop = RandomResizedCrop((30, 30), area=(1.0, 1.0), ratio=(1.0, 1.0))
        np.testing.assert_array_equal(crop(square, rng()), square)

    def test_accepts_a_view_and_does_not_change_it(self, image, rng):
        before = image.copy()
        crop = RandomResizedCrop((40, 30))
        np.testing.assert_array_equal(crop(image[:, ::-1], rng()), crop(image[:, ::-1].copy(), rng()))
        np.testing.assert_array_equal(image, before)

    @pytest.mark.parametrize("shape", [(256, 100), (80, 256), (256, 20), (256, 256)])
    def test_on_a_canvas_equals_the_crop_of_the_padded_image(self, shape, rng):
        """But for the image's edges, which fall between two pixels: a smooth image, and a few rows and columns."""
        source = np.empty((*shape, 3), np.uint8)
        source[:] = np.linspace(60, 250, shape[0])[:, None, None]
        padded = pad_to_center(source, (256, 256), (256, 256))
        crop = RandomResizedCrop((224, 224), area=(0.6, 1.0))
        for seed in range(50):
            target = np.full((224, 224, 3), 99, np.uint8)
            assert crop(source, rng(seed), (256, 256), target) is target
            difference = np.abs(target.astype(int) - crop(padded, rng(seed))).max(2)
            edges = (np.median(difference, axis=0) > 2).sum()  # columns; elsewhere it is a shift of half a pixel
            assert edges <= 6
            assert (np.median(difference, axis=1) > 2).sum() <= 6

    def test_the_canvas_is_black_beside_the_image(self, rng):
        source = np.full((256, 10, 3), 255, np.uint8)
        crop = RandomResizedCrop((32, 32), area=(0.08, 0.1))
        images = [crop(source, rng(seed), (256, 256)) for seed in range(40)]
        assert any(not image.any() for image in images)
        assert all(set(np.unique(image)) <= {0, 255} for image in images)

    def test_size_is_height_and_width(self, image, rng):
        assert RandomResizedCrop((16, 24))(image, rng()).shape == (16, 24, 3)


class TestHorizontalFlip:
    @pytest.mark.parametrize("width", [1, 2, 29, 30])
    def test_mirrors_left_and_right(self, image, width, rng):
        image = image[:, :width].copy()
        np.testing.assert_array_equal(HorizontalFlip(1.0)(image.copy(), rng()), image[:, ::-1])

    def test_never_at_probability_zero(self, image, rng):
        np.testing.assert_array_equal(HorizontalFlip(0.0)(image.copy(), rng()), image)

    @pytest.mark.parametrize("p", [0.2, 0.5])
    def test_flips_with_its_probability(self, p, image, rng, assert_rate):
        flip, generator = HorizontalFlip(p), rng()
        flipped = sum((flip(image.copy(), generator)[0, 0] == image[0, -1]).all() for _ in range(2000))
        assert_rate(flipped, 2000, p)
