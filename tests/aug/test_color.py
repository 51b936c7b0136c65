from itertools import permutations

import numpy as np
import pytest

from rp2k_lab.aug import color, transforms
from rp2k_lab.aug.color import ColorJitter


class TestColorJitter:
    def test_is_the_identity_without_strength(self, image, rng):
        np.testing.assert_array_equal(ColorJitter(0.0)(image.copy(), rng()), image)

    def test_gray_changes_only_in_brightness_within_bounds(self, rng, assert_uniform):
        """A flat gray image has neither contrast nor color; brightness remains, in 1 ± strength."""
        values = []
        for seed in range(500):
            result = ColorJitter(0.4)(np.full((6, 6, 3), 100, np.uint8), rng(seed))
            assert np.ptp(result) == 0
            values.append(int(result[0, 0, 0]))
        assert min(values) >= 60
        assert max(values) <= 140
        assert_uniform((np.array(values) - 59.5) / 81)

    def test_saturation_scales_the_distance_of_channels(self, rng):
        reds = [np.full((4, 4, 3), (200, 100, 100), np.uint8) for _ in range(200)]
        spreads = [int(np.ptp(ColorJitter(0.4)(red, rng(seed))[0, 0])) for seed, red in enumerate(reds)]
        # Each of the three factors scales the distance of the channels: 0.6³ to 1.4³ of 100.
        assert 100 * 0.6**3 - 2 <= min(spreads) < 60
        assert 140 < max(spreads) <= 100 * 1.4**3 + 2

    def test_saturates_instead_of_wrapping(self, rng):
        whites = [np.full((4, 4, 3), 255, np.uint8) for _ in range(50)]
        assert min(ColorJitter(0.4)(white, rng(seed)).min() for seed, white in enumerate(whites)) > 0.6 * 255 - 3

    def test_orders_are_equally_likely(self, rng, assert_rate, monkeypatch):
        seen = []

        def record(name):
            return lambda image, factor: seen.append((name, factor))

        monkeypatch.setattr(color, "_ORDERS", tuple(permutations(record(name) for name in "bcs")))
        generator = rng()
        for _ in range(1200):
            ColorJitter(0.4)(None, generator)
        orders = [tuple(name for name, _ in seen[i : i + 3]) for i in range(0, len(seen), 3)]
        for order in permutations("bcs"):
            assert_rate(orders.count(order), 1200, 1 / 6)

    @pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
    def test_each_factor_is_uniform(self, name, rng, assert_uniform, monkeypatch):
        factors = []
        orders = tuple(permutations((transforms.brightness, transforms.contrast, transforms.saturation)))
        assert orders == color._ORDERS

        def record(transform):
            return lambda image, factor: factors.append(factor) if transform.__name__ == name else None

        monkeypatch.setattr(color, "_ORDERS", tuple(tuple(map(record, order)) for order in orders))
        generator = rng()
        for _ in range(1000):
            ColorJitter(0.4)(None, generator)
        assert_uniform((np.array(factors) - 0.6) / 0.8)
