from types import SimpleNamespace

import pytest

from rp2k_lab.core.errors import RequestError
from rp2k_lab.device import msrun


def request(parallel="data", task="train"):
    return SimpleNamespace(device=SimpleNamespace(parallel=parallel), task=SimpleNamespace(name=task))


@pytest.fixture
def started_as(monkeypatch):
    """started_as(role=None, rank=None): set the environment that `msrun` gives a process, or none."""

    def start(role=None, rank=None):
        for name, value in (("MS_ROLE", role), ("MS_NODE_ID", rank)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)

    return start


@pytest.mark.parametrize(
    ("process", "rank_zero", "scheduler"),
    [
        ((), True, False),
        (("MS_WORKER", "0"), True, False),
        (("MS_WORKER", "1"), False, False),
        (("MS_SCHED",), False, True),
    ],
)
def test_one_process_is_rank_zero(started_as, process, rank_zero, scheduler):
    started_as(*process)
    assert msrun.is_rank_zero() == rank_zero
    assert msrun.is_scheduler() == scheduler


@pytest.mark.parametrize("process", [("MS_WORKER", "0"), ("MS_WORKER", "1"), ("MS_SCHED",)])
def test_all_processes_of_a_parallel_training_are_accepted(started_as, process):
    started_as(*process)
    msrun.check_launch(request(), sweep=False)


def test_other_runs_are_accepted_without_the_launcher(started_as):
    started_as()
    msrun.check_launch(request("none", "evaluate"), sweep=False)
    msrun.check_launch(request("none"), sweep=True)


def test_launched_worker_without_parallel_is_refused(started_as):
    started_as("MS_WORKER", "0")
    with pytest.raises(RequestError, match=r"each worker of msrun would train alone\nadd device\.parallel=data"):
        msrun.check_launch(request("none"), sweep=False)


def test_parallel_without_launcher_prints_the_command(started_as):
    started_as()
    with pytest.raises(RequestError, match=r"\nuse msrun .*--join=True run\.py device\.parallel=data$"):
        msrun.check_launch(request(), sweep=False)


def test_other_tasks_and_sweeps_are_refused(started_as):
    started_as("MS_WORKER", "0")
    with pytest.raises(RequestError, match="task=evaluate runs in one process"):
        msrun.check_launch(request(task="evaluate"), sweep=False)
    with pytest.raises(RequestError, match="the runs of -m cannot share devices"):
        msrun.check_launch(request(), sweep=True)


def test_host_without_rank_is_refused(started_as):
    """Without --node_rank MindSpore assigns ranks later: all workers would print, or none."""
    started_as("MS_WORKER")
    with pytest.raises(RequestError, match="--node_rank"):
        msrun.check_launch(request(), sweep=False)
