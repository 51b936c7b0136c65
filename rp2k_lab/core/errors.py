"""Exceptions that end a run, each with its exit code.

0 done; 2 wrong request; 3 unusable data; 75 stopped by a scheduler's signal (run the same command to resume);
130 interrupted; 1 anything else.
"""

import signal


class RequestError(Exception):
    """A wrong request.  The message has at most two lines: option=value: reason, then the way out."""

    exit_code = 2


class DataError(Exception):
    """Unusable data.  The message has at most two lines: file or folder: reason, then the way out."""

    exit_code = 3


class Pruned(Exception):
    """A study pruned its trial: a normal end."""

    exit_code = 0


class TrainingDiverged(Exception):
    """The loss became NaN or infinite, or stayed at chance."""

    exit_code = 1


class NotReproduced(Exception):
    """Training a run again from its record gave different metrics."""

    exit_code = 1


class StudyIncomplete(Exception):
    """Some trials of a study are not finished."""

    exit_code = 1


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run cleanly; no Exception, so that a sweep ends too."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.exit_code = 130 if signum == signal.SIGINT else 75
