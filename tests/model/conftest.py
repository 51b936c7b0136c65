"""Fixtures of the models' tests."""

import pytest

from tests.helpers.zoo import no_weights


@pytest.fixture
def undrawn():
    """For tests that only count parameters or look at their names and shapes."""
    with no_weights():
        yield
