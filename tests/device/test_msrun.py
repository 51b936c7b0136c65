from types import SimpleNamespace

import pytest

from rp2k_lab.core.errors import RequestError
from rp2k_lab.device import msrun


def request(parallel="data", task="train"):
    return SimpleNamespace(device=SimpleNamespace(parallel=parallel), task=SimpleNamespace(name=task))


@pytest.fixture
def started_as(monkeypatch):
    """started_as(role=None, number=None): what `msrun` puts into a process's environment, or nothing."""

    def start(role=None, number=None):
        for name, value in (("MS_ROLE", role), ("MS_NODE_ID", number)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)

    return start


@pytest.mark.parametrize(
    ("process", "spokesman", "scheduler"),
    [
        ((), True, False),
        (("MS_WORKER", "0"), True, False),
        (("MS_WORKER", "1"), False, False),
        (("MS_SCHED",), False, True),
    ],
)
def test_one_process_of_a_run_speaks(started_as, process, spokesman, scheduler):
    started_as(*process)
    assert msrun.is_rank_zero() == spokesman
    assert msrun.is_scheduler() == scheduler


@pytest.mark.parametrize("process", [("MS_WORKER", "0"), ("MS_WORKER", "1"), ("MS_SCHED",)])
def test_every_process_of_a_parallel_training_is_let_through(started_as, process):
    started_as(*process)
    msrun.check_launch(request(), sweep=False)


def test_whatever_is_not_parallel_is_let_through_without_the_launcher(started_as):
    started_as()
    msrun.check_launch(request("none", "evaluate"), sweep=False)
    msrun.check_launch(request("none"), sweep=True)


def test_a_worker_that_would_train_alone_is_refused(started_as):
    started_as("MS_WORKER", "0")
    with pytest.raises(RequestError, match=r"each worker of msrun would train alone\nadd device\.parallel=data"):
        msrun.check_launch(request("none"), sweep=False)


def test_without_the_launcher_its_command_is_given(started_as):
    started_as()
    with pytest.raises(RequestError, match=r"\nexample: msrun .*--join=True run\.py device\.parallel=data$"):
        msrun.check_launch(request(), sweep=False)


def test_other_tasks_and_sweeps_are_refused(started_as):
    started_as("MS_WORKER", "0")
    with pytest.raises(RequestError, match="task=evaluate runs in one process"):
        msrun.check_launch(request(task="evaluate"), sweep=False)
    with pytest.raises(RequestError, match="the runs of -m share no devices"):
        msrun.check_launch(request(), sweep=True)


def test_a_host_without_its_number_is_refused(started_as):
    """Without it MindSpore numbers the workers only later, and all would speak or none."""
    started_as("MS_WORKER")
    with pytest.raises(RequestError, match="--node_rank"):
        msrun.check_launch(request(), sweep=False)
