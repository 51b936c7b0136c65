"""Each `conf/aug` choice, and the properties of every operation."""

from functools import cache

import numpy as np
import pytest

from rp2k_lab.aug.color import ColorJitter
from rp2k_lab.aug.erase.cutout import Cutout
from rp2k_lab.aug.erase.random_erasing import RandomErasing
from rp2k_lab.aug.geometry import HorizontalFlip, RandomResizedCrop
from rp2k_lab.aug.mix.cutmix import CutMix
from rp2k_lab.aug.mix.mixup import Mixup
from rp2k_lab.aug.policy.autoaugment import AutoAugment
from rp2k_lab.aug.policy.randaugment import INCREASING_ARGUMENTS, RandAugment, RandAugmentOptions
from rp2k_lab.aug.policy.trivialaugment import TrivialAugment
from rp2k_lab.config.choices import choices, defaults_of
from rp2k_lab.config.schema import parse

MEAN = (0.4716, 0.4250, 0.3540)
CHOICES = choices("aug")
FILL = (120, 108, 90)


def randaugment(choice="randaugment", **changes):
    return RandAugment(RandAugmentOptions(**defaults_of("aug/policy", choice) | changes), FILL)


OPERATIONS = {
    "crop": RandomResizedCrop((40, 30)),
    "flip": HorizontalFlip(0.5),
    "always flip": HorizontalFlip(1.0),
    "color": ColorJitter(0.4),
    "cutout": Cutout(12, FILL),
    "erasing": RandomErasing(0.5, (0.02, 0.4), 0.3, "random", FILL),
    "erasing with the mean": RandomErasing(1.0, (0.02, 0.4), 0.3, "mean", FILL),
    "autoaugment": AutoAugment(FILL),
    "randaugment": randaugment(),
    "randaugment as in timm": randaugment("randaugment_timm"),
    "randaugment beyond 10": randaugment(operations="timm", num_ops=4, magnitude=30, magnitude_max=30),
    "trivialaugment": TrivialAugment((40, 30), FILL),
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
    """Return choice(*overrides), which parses the configuration group from its YAML."""
    return cache(lambda *overrides: parse(compose(*overrides)).aug)


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
        augmentation = choice(f"aug={name}").build(size, MEAN)
        batch = self.batch(augmentation, source, map(rng, range(6)))
        assert (batch.dtype, batch.shape) == (np.uint8, (6, *size, 3))
        if augmentation.mix:
            mixed, weights = augmentation.mix(batch, [rng(seed) for seed in range(6)])
            assert (mixed.dtype, mixed.shape, weights.shape) == (np.uint8, batch.shape, (6,))

    def test_is_reproducible_when_built_again(self, choice, name, size, rng):
        source = rng().integers(0, 256, (size[0] + 20, size[1] + 10, 3), np.uint8)
        one, other = (self.batch(choice(f"aug={name}").build(size, MEAN), source, map(rng, range(4))) for _ in range(2))
        np.testing.assert_array_equal(one, other)


class TestBuild:
    def test_all_off_is_nothing(self, choice):
        augmentation = choice("aug.crop=null", "aug.flip=0.0", "aug.color=0.0").build((48, 48), MEAN)
        assert (augmentation.crop, augmentation.operations, augmentation.mix) == (None, (), None)

    def test_baseline(self, choice):
        augmentation = choice("aug.crop=[0.3,0.9]", "aug.flip=0.25", "aug.color=0.4").build((32, 48), MEAN)
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
            ("trivialaugment", TrivialAugment),
        ],
    )
    def test_the_choices_operation_follows_the_baseline(self, choice, name, last):
        augmentation = choice(f"aug={name}").build((64, 64), MEAN)
        assert [type(operation) for operation in augmentation.operations] == [HorizontalFlip, ColorJitter, last]
        assert augmentation.mix is None

    @pytest.mark.parametrize(("name", "mix"), [("mixup", Mixup), ("cutmix", CutMix)])
    def test_mixes_follow_the_baseline(self, choice, name, mix):
        augmentation = choice(f"aug={name}").build((64, 64), MEAN)
        assert [type(operation) for operation in augmentation.operations] == [HorizontalFlip, ColorJitter]
        assert type(augmentation.mix) is mix

    def test_trivialaugment_with_cutmix_mixes_half_of_the_batches(self, choice):
        augmentation = choice("aug=trivialaugment_cutmix").build((64, 64), MEAN)
        assert [type(operation) for operation in augmentation.operations] == [
            HorizontalFlip,
            ColorJitter,
            TrivialAugment,
        ]
        assert (type(augmentation.mix), augmentation.mix.p) == (CutMix, 0.5)

    @pytest.mark.parametrize(
        "overrides",
        [
            ("aug/erase=cutout", "aug=randaugment", "aug/mix=cutmix"),
            ("aug=cutmix", "aug/policy=randaugment", "aug/erase=cutout"),
        ],
    )
    def test_slots_combine_in_the_published_order(self, choice, overrides):
        augmentation = choice(*overrides).build((64, 64), MEAN)
        names = [type(operation) for operation in augmentation.operations]
        assert names == [HorizontalFlip, ColorJitter, RandAugment, Cutout]
        assert type(augmentation.mix) is CutMix

    @pytest.mark.parametrize(("size", "length"), [((224, 224), 14), ((112, 112), 7), ((448, 224), 14), ((32, 32), 2)])
    def test_cutouts_length_scales_with_the_size(self, choice, size, length):
        assert choice("aug=cutout").build(size, MEAN).operations[-1].length == length

    def test_cutout_has_at_least_a_pixel(self, choice):
        assert choice("aug=cutout", "aug.erase.length=1").build((32, 32), MEAN).operations[-1].length == 1

    def test_the_mean_is_the_fill_color(self, choice):
        cutout = choice("aug=cutout").build((64, 64), MEAN).operations[-1]
        erasing = choice("aug=random_erasing", "aug.erase.fill=mean").build((64, 64), MEAN).operations[-1]
        assert cutout.fill == erasing.fill == (120, 108, 90)
        for name in ("autoaugment", "randaugment", "trivialaugment"):
            policy = choice(f"aug={name}").build((64, 64), MEAN).operations[-1]
            assert policy.transforms["Rotate"].keywords == {"fill": (120, 108, 90)}


class TestPapersDefaults:
    def built(self, augmentation):
        return vars(augmentation.mix or augmentation.operations[-1])

    def test_random_erasing(self, choice):
        built = self.built(choice("aug=random_erasing").build((64, 64), MEAN))
        assert built == {"p": 0.5, "area": (0.02, 0.4), "ratio": 0.3, "fill": None}

    def test_randaugment(self, choice):
        built = self.built(choice("aug=randaugment").build((64, 64), MEAN))
        options = built["options"]
        assert (options.num_ops, options.p, options.magnitude, options.magnitude_std) == (2, 1.0, 9, 0.0)
        assert "Identity" in built["operations"]

    @pytest.mark.parametrize("name", ["timm", "randaugment"])
    def test_randaugment_as_in_timm(self, choice, name):
        """rand-m9-mstd0.5-inc1: timm's default of `magnitude_max` is 10, its transformations have probability 0.5."""
        built = self.built(choice(f"aug={name}", "aug/policy=randaugment_timm", "aug/erase=none").build((64, 64), MEAN))
        options = built["options"]
        assert (options.operations, options.num_ops, options.p) == ("timm", 2, 0.5)
        assert (options.magnitude, options.magnitude_std, options.magnitude_max) == (9, 0.5, 10)
        assert built["arguments"] is INCREASING_ARGUMENTS

    def test_timms_combination(self, choice):
        augmentation = choice("aug=timm").build((64, 64), MEAN)
        assert [type(operation) for operation in augmentation.operations[-2:]] == [RandAugment, RandomErasing]
        assert vars(augmentation.operations[-1]) == {"p": 0.25, "area": (0.02, 0.3333), "ratio": 0.3, "fill": None}

    @pytest.mark.parametrize(("name", "built"), [("mixup", {"alpha": 0.2}), ("cutmix", {"alpha": 1.0, "p": 1.0})])
    def test_mixes(self, choice, name, built):
        assert self.built(choice(f"aug={name}").build((64, 64), MEAN)) == built


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ((), "none"),
        (("aug=cutout",), "cutout"),
        (("aug=cutout", "aug/erase=none"), "none"),
        (("aug=randaugment", "aug/erase=random_erasing", "aug/mix=cutmix"), "randaugment+random_erasing+cutmix"),
        (("aug=timm",), "timm"),
    ],
)
def test_label(choice, overrides, label):
    assert choice(*overrides).label == label
