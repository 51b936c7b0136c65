"""Slots and combinations of installed packages: their types are known when all packages are imported."""

import importlib.util
from typing import Literal

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from rp2k_lab import plugins
from rp2k_lab.aug.erase import Erase
from rp2k_lab.config.choices import defaults_of
from rp2k_lab.core.options import Fraction


class Stripe(Erase):
    name: Literal["stripe"]
    rows: int

    def build(self, size, fill):
        def operation(image, rng):
            image[: self.rows] = fill
            return image

        return operation


@pytest.fixture
def validate(monkeypatch):
    """Return the validation of a combination of a package, assembled as at the start of a command."""
    plugins.load()
    registered = {group: dict(classes) for group, classes in plugins._registered.items()}
    monkeypatch.setattr(plugins, "_registered", registered)
    spec = importlib.util.find_spec("rp2k_lab.aug.options")
    options = importlib.util.module_from_spec(spec)  # config/schema.py has resolved the slots of the imported one
    spec.loader.exec_module(options)
    plugins.register("aug/erase")(Stripe)

    @plugins.register("aug")
    class Darker(options.Aug):
        name: Literal["darker"]
        factor: Fraction

        def build_operation(self, size, fill):
            return lambda image, rng: (self.factor * image).astype(np.uint8)

    slots = {slot.title(): plugins.union(f"aug/{slot}") for slot in ("policy", "erase", "mix")}
    for each in plugins.options_of("aug").values():
        each.model_rebuild(force=True, _types_namespace=slots)
    return TypeAdapter(plugins.union("aug")).validate_python


def test_choices_of_packages_work_with_the_built_in_ones(validate):
    settings = defaults_of("aug", "none") | {"name": "darker", "factor": 0.5, "crop": None, "flip": 0.0, "color": 0.0}
    aug = validate(settings | {"erase": {"name": "stripe", "rows": 2}, "mix": {"name": "mixup", "alpha": 0.2}})
    assert (aug.erase.rows, aug.mix.alpha, aug.label) == (2, 0.2, "darker")
    darker, stripe = aug.build((4, 4), (1.0, 1.0, 1.0)).operations
    image = stripe(darker(np.full((4, 4, 3), 100, np.uint8), None), None)
    assert image[..., 0].tolist() == [[255] * 4] * 2 + [[50] * 4] * 2  # after the policy, before the erasing


@pytest.mark.parametrize(
    ("slot", "values", "location"),
    [
        ("erase", {"name": "stripe"}, ("darker", "erase", "stripe", "rows")),
        ("erase", {"name": "cutout", "length": 0}, ("darker", "erase", "cutout", "length")),
        ("policy", {"name": "stripe", "rows": 2}, ("darker", "policy")),
    ],
)
def test_values_are_checked(validate, slot, values, location):
    settings = defaults_of("aug", "none") | {"name": "darker", "factor": 0.5}
    with pytest.raises(ValidationError) as error:
        validate(settings | {slot: values})
    assert [each["loc"] for each in error.value.errors()] == [location]


def test_a_file_alone_makes_a_combination(validate):
    aug = validate(defaults_of("aug", "timm") | {"name": "mine"})
    assert (type(aug).__name__, aug.label, aug.policy.name) == ("Aug", "mine", "randaugment_timm")
