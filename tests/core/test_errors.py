import signal

import pytest

from rp2k_lab.core import errors


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.RequestError("x"), 2),
        (errors.DataError("x"), 3),
        (errors.Pruned(), 0),
        (errors.TrainingDiverged("x"), 1),
        (errors.NotReproduced("x"), 1),
        (errors.StudyIncomplete("x"), 1),
        (errors.Interrupted(signal.SIGINT), 130),
        (errors.Interrupted(signal.SIGTERM), 75),
    ],
)
def test_exit_codes(error, exit_code):
    assert error.exit_code == exit_code


def test_interrupted_is_no_exception():
    """So that `except Exception` does not catch it, and a sweep ends too."""
    assert not isinstance(errors.Interrupted(signal.SIGINT), Exception)
