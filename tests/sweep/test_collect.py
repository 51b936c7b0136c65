"""What a study's trials add to a table's results; the rest is seen in tests/task/test_tables.py."""

from datetime import datetime, timedelta
from types import SimpleNamespace

from rp2k_lab.sweep.collect import _time_taken

NOON = datetime(2026, 1, 1, 12).astimezone()


def trial(minute, seconds, **attributes):
    began = NOON + timedelta(minutes=minute)
    ended = began + timedelta(seconds=seconds) if seconds else None
    return SimpleNamespace(datetime_start=began, datetime_complete=ended, user_attrs=attributes)


def test_the_time_of_a_run_is_that_of_all_the_trials_that_it_went_on_through():
    trials = [trial(0, 10), trial(1, 50), trial(2, 20, goes_on_with=0), trial(5, 30.25, resumes=2)]
    taken = _time_taken(trials[3], trials)
    assert (datetime.fromisoformat(taken["started"]), taken["seconds"]) == (NOON, 60.2)
    taken = _time_taken(trials[1], trials)
    assert (datetime.fromisoformat(taken["started"]), taken["seconds"]) == (NOON + timedelta(minutes=1), 50)
    under_way = trial(6, None, resumes=0)
    assert _time_taken(under_way, trials)["seconds"] != _time_taken(under_way, trials)["seconds"]  # NaN
