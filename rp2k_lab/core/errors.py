"""What a run can end with, as exceptions that carry the exit code.

0 done; 2 the request is wrong; 3 the data are unusable; 75 stopped by a scheduler's signal, run the same command to
continue; 130 interrupted; 1 anything else.
"""

import signal


class RequestError(Exception):
    """The request is wrong.  At most two lines: the option and the reason, then the way out."""

    exit_code = 2


class DataError(Exception):
    """The data are unusable.  At most two lines: the file or folder and the reason, then the way out."""

    exit_code = 3


class Pruned(Exception):
    """A study asked its trial to stop early: an end in order."""

    exit_code = 0


class TrainingDiverged(Exception):
    """The loss became NaN or infinite, or stayed at chance."""

    exit_code = 1


class NotReproduced(Exception):
    """A run's metrics came out otherwise when it was trained again from its record."""

    exit_code = 1


class StudyIncomplete(Exception):
    """Some of a study's points are not finished."""

    exit_code = 1


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop and it stopped in order; not an Exception, so a sweep ends with it too."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.exit_code = 130 if signum == signal.SIGINT else 75
