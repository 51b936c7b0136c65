"""Each `conf/aug` choice, and the properties of every operation."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from rp2k_lab import PROJECT
from rp2k_lab.aug import (
    AutoAugment,
    ColorJitter,
    CutMix,
    Cutout,
    HorizontalFlip,
    Mixup,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    build_augmentation,
)
from rp2k_lab.config.schema import parse

MEAN = (0.4716, 0.4250, 0.3540)
CHOICES = sorted(file.stem for file in (PROJECT / "conf" / "aug").glob("*.yaml"))
FILL = (120, 108, 90)
TIMM = ("timm", 2, 0.5, 9, 0.5, 10, True)
OPERATIONS = {
    "crop": RandomResizedCrop((40, 30)),
    "flip": HorizontalFlip(0.5),
    "always flip": HorizontalFlip(1.0),
    "color": ColorJitter(0.4),
    "cutout": Cutout(12, FILL),
    "erasing": RandomErasing(0.5, (0.02, 0.4), 0.3, "random", FILL),
    "erasing with the mean": RandomErasing(1.0, (0.02, 0.4), 0.3, "mean", FILL),
    "autoaugment": AutoAugment(FILL),
    "randaugment": RandAugment("paper", 2, 1.0, 9, 0.0, 10, False, FILL),
    "randaugment as in timm": RandAugment(*TIMM, FILL),
    "randaugment beyond 10": RandAugment("timm", 4, 1.0, 30, 0.0, 30, False, FILL),
}


@pytest.mark.parametrize("name", OPERATIONS)
class TestEveryOperation:
    def test_keeps_type_shape_and_order_in_memory(self, name, image, rng):
        for seed in range(20):
            result = OPERATIONS[name](image.copy(), rng(seed))
            assert (result.dtype, result.shape, result.flags.c_contiguous) == (np.uint8, (40, 30, 3), True)

    def test_is_a_pure_function_of_the_generator(self, name, image, rng):
        first = [OPERATIONS[name](image.copy(), rng(seed)) for seed in range(12)]
        again = [OPERATIONS[name](image.copy(), rng(seed)) for seed in reversed(range(12))][::-1]
        np.testing.assert_array_equal(first, again)

    def test_draws_do_not_depend_on_the_pixels(self, name, image, rng):
        """An image's content must not change the augmentation of the following ones."""
        for seed in range(10):
            one, other = rng(seed), rng(seed)
            OPERATIONS[name](image.copy(), one)
            OPERATIONS[name](np.zeros_like(image), other)
            assert one.random() == other.random()

    def test_other_generators_give_other_images(self, name, image, rng):
        different = {OPERATIONS[name](image.copy(), rng(seed)).tobytes() for seed in range(20)}
        assert (len(different) > 1) == (name != "always flip")

    @pytest.mark.parametrize("shape", [(1, 1), (1, 17), (17, 1), (2, 3)])
    def test_accepts_any_size(self, name, shape, rng):
        expected = (40, 30) if name == "crop" else shape
        for seed in range(20):
            small = rng().integers(0, 256, (*shape, 3), np.uint8)
            assert OPERATIONS[name](small, rng(seed)).shape == (*expected, 3)


@pytest.fixture(scope="module")
def choice(compose):
    """Return choice(name, *overrides), which parses the configuration group from its YAML."""
    return cache(lambda name, *overrides: parse(compose(f"aug={name}", *overrides)).aug)


@pytest.mark.parametrize("size", [(32, 40), (224, 224)])
@pytest.mark.parametrize("name", CHOICES)
class TestEveryChoice:
    def batch(self, augmentation, source, rngs):
        images = []
        for rng in rngs:
            image = augmentation.crop(source, rng)
            for operation in augmentation.operations:
                image = operation(image, rng)
            images.append(image)
        return np.stack(images)

    @pytest.mark.parametrize("black", [False, True])
    def test_runs(self, choice, name, size, black, rng):
        source = rng().integers(0, 1 if black else 256, (size[0] + 20, size[1] + 10, 3), np.uint8)
        augmentation = build_augmentation(choice(name), size, MEAN)
        batch = self.batch(augmentation, source, map(rng, range(6)))
        assert (batch.dtype, batch.shape) == (np.uint8, (6, *size, 3))
        if augmentation.mix:
            mixed, weights = augmentation.mix(batch, [rng(seed) for seed in range(6)])
            assert (mixed.dtype, mixed.shape, weights.shape) == (np.uint8, batch.shape, (6,))

    def test_is_reproducible_when_built_again(self, choice, name, size, rng):
        source = rng().integers(0, 256, (size[0] + 20, size[1] + 10, 3), np.uint8)
        one, other = (
            self.batch(build_augmentation(choice(name), size, MEAN), source, map(rng, range(4))) for _ in range(2)
        )
        np.testing.assert_array_equal(one, other)


def options(**changes):
    return SimpleNamespace(**{"name": "none", "crop": None, "flip": 0.0, "color": 0.0} | changes)


class TestBuild:
    def test_all_off_is_nothing(self):
        augmentation = build_augmentation(options(), (48, 48), MEAN)
        assert (augmentation.crop, augmentation.operations, augmentation.mix) == (None, (), None)

    def test_baseline(self):
        augmentation = build_augmentation(options(crop=(0.3, 0.9), flip=0.25, color=0.4), (32, 48), MEAN)
        assert (augmentation.crop.size, augmentation.crop.area) == ((32, 48), (0.3, 0.9))
        flip, jitter = augmentation.operations
        assert (type(flip), type(jitter)) == (HorizontalFlip, ColorJitter)
        assert (flip.p, jitter.strength) == (0.25, 0.4)

    @pytest.mark.parametrize(
        ("name", "last"),
        [
            ("cutout", Cutout),
            ("random_erasing", RandomErasing),
            ("autoaugment", AutoAugment),
            ("randaugment", RandAugment),
        ],
    )
    def test_the_choices_operation_follows_the_baseline(self, choice, name, last):
        augmentation = build_augmentation(choice(name), (64, 64), MEAN)
        assert [type(operation) for operation in augmentation.operations] == [HorizontalFlip, ColorJitter, last]
        assert augmentation.mix is None

    @pytest.mark.parametrize(("name", "mix"), [("mixup", Mixup), ("cutmix", CutMix)])
    def test_mixes_follow_the_baseline(self, choice, name, mix):
        augmentation = build_augmentation(choice(name), (64, 64), MEAN)
        assert [type(operation) for operation in augmentation.operations] == [HorizontalFlip, ColorJitter]
        assert type(augmentation.mix) is mix

    @pytest.mark.parametrize(("size", "length"), [((224, 224), 14), ((112, 112), 7), ((448, 224), 14), ((32, 32), 2)])
    def test_cutouts_length_scales_with_the_size(self, size, length):
        (cutout,) = build_augmentation(options(name="cutout", length=14), size, MEAN).operations
        assert cutout.length == length

    def test_cutout_has_at_least_a_pixel(self):
        (cutout,) = build_augmentation(options(name="cutout", length=1), (32, 32), MEAN).operations
        assert cutout.length == 1

    def test_the_mean_is_the_fill_color(self, choice):
        cutout = build_augmentation(choice("cutout"), (64, 64), MEAN).operations[-1]
        erasing = build_augmentation(choice("random_erasing", "aug.fill=mean"), (64, 64), MEAN).operations[-1]
        assert cutout.fill == erasing.fill == (120, 108, 90)
        for name in ("autoaugment", "randaugment"):
            policy = build_augmentation(choice(name), (64, 64), MEAN).operations[-1]
            assert policy.transforms["Rotate"].keywords == {"fill": (120, 108, 90)}


class TestPapersDefaults:
    def built(self, augmentation):
        return vars(augmentation.mix or augmentation.operations[-1])

    def test_random_erasing(self, choice):
        built = self.built(build_augmentation(choice("random_erasing"), (64, 64), MEAN))
        assert built == {"p": 0.5, "area": (0.02, 0.4), "ratio": 0.3, "fill": None}

    def test_randaugment(self, choice):
        built = self.built(build_augmentation(choice("randaugment"), (64, 64), MEAN))
        assert (built["num_ops"], built["p"], built["magnitude"], built["magnitude_std"]) == (2, 1.0, 9, 0.0)
        assert "Identity" in built["operations"]

    def test_randaugment_as_published(self, choice):
        """The overrides in randaugment.yaml's comment."""
        file = (PROJECT / "conf" / "aug" / "randaugment.yaml").read_text(encoding="utf-8")
        line = next(line for line in file.splitlines() if "rand-m9-mstd0.5:" in line)
        overrides = [word for word in line.split() if word.startswith("aug.")]
        for increasing in (False, True):
            more = ["aug.increasing=true"] if increasing else []
            built = build_augmentation(choice("randaugment", *overrides, *more), (64, 64), MEAN).operations[-1]
            expected = RandAugment(*TIMM[:-1], increasing, FILL)
            for key in ("operations", "num_ops", "p", "magnitude", "magnitude_std", "magnitude_max", "arguments"):
                assert getattr(built, key) == getattr(expected, key)

    @pytest.mark.parametrize(("name", "built"), [("mixup", {"alpha": 0.2}), ("cutmix", {"alpha": 1.0, "p": 1.0})])
    def test_mixes(self, choice, name, built):
        assert self.built(build_augmentation(choice(name), (64, 64), MEAN)) == built
