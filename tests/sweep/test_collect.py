"""Times of a study's trials; tests/task/test_tables.py covers the rest of collect."""

from datetime import datetime, timedelta
from types import SimpleNamespace

from rp2k_lab.sweep.collect import _time_taken

NOON = datetime(2026, 1, 1, 12).astimezone()


def trial(minute, seconds, **attributes):
    started = NOON + timedelta(minutes=minute)
    ended = started + timedelta(seconds=seconds) if seconds else None
    return SimpleNamespace(datetime_start=started, datetime_complete=ended, user_attrs=attributes)


def test_time_of_a_resumed_run_adds_all_its_trials():
    trials = [trial(0, 10), trial(1, 50), trial(2, 20, goes_on_with=0), trial(5, 30.25, resumes=2)]
    taken = _time_taken(trials[3], trials)
    assert (datetime.fromisoformat(taken["started"]), taken["seconds"]) == (NOON, 60.2)
    taken = _time_taken(trials[1], trials)
    assert (datetime.fromisoformat(taken["started"]), taken["seconds"]) == (NOON + timedelta(minutes=1), 50)
    running = trial(6, None, resumes=0)
    assert _time_taken(running, trials)["seconds"] != _time_taken(running, trials)["seconds"]  # NaN
