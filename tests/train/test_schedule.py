"""Each schedule against its formula, and the warm-up of all."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from rp2k_lab.config.choices import defaults_of
from rp2k_lab.train.schedule import Schedule
from rp2k_lab.train.schedule.constant import Constant
from rp2k_lab.train.schedule.cosine import Cosine
from rp2k_lab.train.schedule.linear import Linear
from rp2k_lab.train.schedule.one_cycle import OneCycle
from rp2k_lab.train.schedule.step import Step

CHOICES = {"cosine": Cosine, "one_cycle": OneCycle, "step": Step, "constant": Constant, "linear": Linear}


def schedule(name: str, **changes) -> Schedule:
    """Return a choice with the defaults of conf/schedule."""
    return CHOICES[name].model_validate(defaults_of("schedule", name) | changes)


def cosine(updates: int, peak: float, end: float, warmup: int = 0) -> np.ndarray:
    return schedule("cosine", lr_end=end).rates(updates, peak, warmup)


def test_cosine_equals_the_formula():
    rates = cosine(11, peak=0.4, end=0.1)
    np.testing.assert_allclose(rates, 0.1 + 0.15 * (1 + np.cos(np.pi * np.arange(11) / 10)), rtol=1e-6)
    assert rates.dtype == np.float32


def test_default_cosine_has_the_rates_of_older_runs():
    """The bits of `cosine_schedule(12, 0.05, 1e-6, warmup_steps=3)` of commit ab2c967."""
    options = schedule("cosine")
    assert (options.lr_end, options.warmup_epochs) == (1e-6, 0.5)
    bits = "8988883c8988083dcdcc4c3dcdcc4c3d6301453defce2e3d8a960d3dd9cdcc3c3cdd7c3c52f7ef3bc18ef93abd378635"
    assert options.rates(12, 0.05, 3).tobytes().hex() == bits


def test_first_and_last_rate_are_exact():
    rates = cosine(100, peak=0.05, end=1e-6)
    assert rates[0] == np.float32(0.05)
    assert rates[-1] == np.float32(1e-6)
    assert rates[1] < rates[0]


def test_warmup_is_linear_and_reaches_the_peak():
    rates = cosine(20, peak=0.4, end=0.0, warmup=4)
    np.testing.assert_allclose(rates[:5], [0.1, 0.2, 0.3, 0.4, 0.4], rtol=1e-6)
    assert rates[-1] == 0


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 49])
def test_rate_rises_only_in_the_warmup(name, warmup):
    rates = schedule(name, lr_end=0.01).rates(50, 0.1, warmup)
    assert len(rates) == 50
    assert (np.diff(rates[:warmup]) > 0).all()
    assert (np.diff(rates[warmup:]) < 0).all()
    assert rates.max() == np.float32(0.1)
    assert rates.min() > 0


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize(("updates", "warmup"), [(10, 9), (10, 8), (2, 0), (1, 0)])
def test_last_update_has_the_end_rate_unless_warmup_takes_all(name, updates, warmup):
    assert schedule(name, lr_end=0.001).rates(updates, 0.1, warmup)[-1] == np.float32(0.001)


@pytest.mark.parametrize("name", [name for name in CHOICES if name != "one_cycle"])
@pytest.mark.parametrize("warmup", [5, 6, 500])
def test_a_long_warmup_takes_all_updates(name, warmup):
    rates = schedule(name, **({"milestones": [0.95]} if name == "step" else {})).rates(5, 1.0, warmup)
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("warmup", [0, 1, 4, 12, 30])
@pytest.mark.parametrize("updates", [1, 2, 12])
def test_every_update_has_a_positive_rate_up_to_the_peak(name, updates, warmup):
    rates = schedule(name).rates(updates, 0.05, warmup)
    assert rates.shape == (updates,)
    assert rates.dtype == np.float32
    assert (rates > 0).all()
    assert (rates <= np.float32(0.05)).all()


def test_linear_equals_the_formula():
    rates = schedule("linear", lr_end=0.1).rates(13, 0.4, 2)
    np.testing.assert_allclose(rates, [0.2, 0.4, *(0.4 - 0.03 * np.arange(11))], rtol=1e-6)


def test_constant_stays_at_the_peak():
    np.testing.assert_allclose(schedule("constant").rates(6, 0.3, 3), [0.1, 0.2, *[0.3] * 4], rtol=1e-6)


def test_step_equals_the_formula():
    """PyTorch's MultiStepLR(milestones=[6, 9], gamma=0.5) in 12 updates, with its warm-up over the first 7."""
    options = schedule("step", milestones=[0.5, 0.75], factor=0.5)
    np.testing.assert_allclose(options.rates(12, 0.8, 0), [0.8] * 6 + [0.4] * 3 + [0.2] * 3, rtol=1e-6)
    warm = options.rates(12, 0.7, 7)
    np.testing.assert_allclose(warm, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.35, 0.35, 0.35, *[0.175] * 3], rtol=1e-6)


def test_default_steps_are_those_of_90_epochs():
    rates = schedule("step").rates(90, 1.0, 0)
    assert np.flatnonzero(np.diff(rates)).tolist() == [29, 59, 79]
    assert rates[[0, 30, 60, 80]] == pytest.approx([1, 0.1, 0.01, 0.001])


def one_cycle(position: float, updates: int, peak: float, pct_start: float, div: float, final_div: float) -> float:
    """PyTorch 2.14's OneCycleLR(anneal_strategy="cos", three_phase=False), `get_lr` and `_annealing_cos`."""
    phases = [(pct_start * updates - 1, peak / div, peak), (updates - 1, peak, peak / div / final_div)]
    start_step = 0.0
    for i, (end_step, start, end) in enumerate(phases):
        if position <= end_step or i == len(phases) - 1:
            fraction = (position - start_step) / (end_step - start_step)
            return end + (start - end) / 2.0 * (math.cos(math.pi * fraction) + 1)
        start_step = end_step
    raise AssertionError


@pytest.mark.parametrize("pct_start", [0.01, 0.25, 0.3, 0.9])
@pytest.mark.parametrize("warmup", [0, 3])
def test_one_cycle_equals_the_formula(pct_start, warmup):
    rates = schedule("one_cycle", pct_start=pct_start, div_factor=20.0, final_div_factor=50.0).rates(23, 0.4, warmup)
    cycle = 23 - warmup
    np.testing.assert_allclose(rates[:warmup], 0.02 * np.arange(1, warmup + 1) / 3, rtol=1e-6)
    expected = [one_cycle(i, cycle, 0.4, pct_start, 20.0, 50.0) for i in range(cycle)]
    np.testing.assert_allclose(rates[warmup:], expected, rtol=1e-6)


@pytest.mark.parametrize(("pct_start", "top"), [(0.1, 0), (0.5, 4), (1.0, 9)])
def test_one_cycle_reaches_the_peak_once(pct_start, top):
    rates = schedule("one_cycle", pct_start=pct_start).rates(10, 0.4, 0)
    assert rates.argmax() == top
    assert rates[top] == np.float32(0.4)


WRONG = [
    ("cosine", {"warmup_epochs": -1.0}, "greater than or equal to 0"),
    ("cosine", {"lr_end": float("nan")}, "finite"),
    ("constant", {"lr_end": 0.0}, "Extra inputs"),
    ("step", {"milestones": [30, 60]}, r"fractions of the run between 0 and 1, for example \[0.5,0.75\]"),
    ("step", {"milestones": []}, "fractions of the run"),
    ("step", {"milestones": [0.5, 0.5]}, "needs each milestone after the one before it"),
    ("step", {"milestones": [0.7, 0.5]}, "needs each milestone after the one before it"),
    ("step", {"factor": 1.0}, "less than 1"),
    ("one_cycle", {"pct_start": 1.5}, "less than or equal to 1"),
    ("one_cycle", {"div_factor": 0.5}, "greater than or equal to 1"),
]


@pytest.mark.parametrize(("name", "changes", "reason"), WRONG)
def test_wrong_values_are_refused(name, changes, reason):
    with pytest.raises(ValidationError, match=reason):
        schedule(name, **changes)
