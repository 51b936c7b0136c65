import numpy as np
import pytest


@pytest.fixture(scope="session")
def rng():
    """Return rng(seed=0), which makes a generator."""
    return lambda seed=0: np.random.default_rng(seed)


@pytest.fixture
def image(rng):
    return rng().integers(0, 256, (40, 30, 3), np.uint8)


@pytest.fixture(scope="session")
def assert_uniform():
    """Return assert_uniform(values): the Kolmogorov–Smirnov test against the uniform distribution on 0 to 1."""

    def check(values):
        values, n = np.sort(values), len(values)
        distance = max((np.arange(1, n + 1) / n - values).max(), (values - np.arange(n) / n).max())
        assert distance < 1.95 / np.sqrt(n)  # the critical distance at a level of 0.1 %

    return check


@pytest.fixture(scope="session")
def assert_rate():
    """Return assert_rate(successes, n, p): within four standard deviations of the binomial distribution's mean."""

    def check(successes, n, p):
        assert successes / n == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / n))

    return check
