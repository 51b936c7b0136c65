"""Fixtures for the tests of models."""

import pytest

from tests.helpers.zoo import no_weights


@pytest.fixture
def undrawn():
    """Build networks without drawing weights, for tests of parameter counts, names and shapes."""
    with no_weights():
        yield
