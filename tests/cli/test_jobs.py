"""The jobs of `-m`: combinations, their checks, and the runs that they start from."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from rp2k_lab.cli.app import register_resolvers
from rp2k_lab.cli.jobs import checked_jobs
from rp2k_lab.config.choices import CONF
from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking import local_runs
from tests.helpers.offline_run import finish_run


@pytest.fixture
def jobs():
    """jobs(*arguments): the overrides of each job of `run.py -m …`."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

        def jobs(*arguments):
            config = loader.load_configuration("config", list(arguments), RunMode.MULTIRUN)
            return checked_jobs(arguments, config, loader)

        yield jobs


def test_every_combination_is_a_job(jobs):
    assert jobs("aug=none,cutout", "epochs=2", "seed=range(2)") == [
        ["aug=none", "epochs=2", "seed=0"],
        ["aug=none", "epochs=2", "seed=1"],
        ["aug=cutout", "epochs=2", "seed=0"],
        ["aug=cutout", "epochs=2", "seed=1"],
    ]
    assert jobs("size=[32,64],[64,32]") == [["size=[32,64]"], ["size=[64,32]"]]
    assert jobs("tracking.run_name='a b'") == [["tracking.run_name='a b'"]]


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("epochs=2,0", "epochs=0: input should be greater"),
        ("batch_size=range(0)", r"batch_size=range\(0\): has no value"),
        ("hydra.sweeper.max_batch_size=-1", "hydra.sweeper.max_batch_size=-1: not a number of jobs"),
        ("batch_size=range(1,6000)", r"seed=1,2 batch_size=range\(1,6000\): more than 10,000 jobs\nadd hydra/sweeper"),
        ("optimizer.lr=interval(0.1,0.2)", r"optimizer\.lr=interval\(0\.1,0\.2\): has no list of values\nuse "),
    ],
)
def test_all_jobs_are_checked_before_the_first(jobs, argument, reason):
    with pytest.raises(RequestError, match=f"^{reason}"):
        jobs("seed=1,2", argument)


def test_all_jobs_start_from_the_same_run(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(local_runs, "OUTPUTS", tmp_path)
    best, last = finish_run(tmp_path / "a", "best", 0.75), finish_run(tmp_path / "b", "last", 0.5)
    store = f"tracking.uri=sqlite:///{tmp_path}/none.db"
    runs = [job[-1] for job in jobs("task=fixres", "runs=last", "size=40,48", store)]
    assert runs == [f'runs=["{last}"]'] * 2
    runs = [job[-1] for job in jobs("task=evaluate", "runs=best,last,'a name'", store)]
    assert runs == [f'runs=["{best}"]', f'runs=["{last}"]', store]
    (job,) = jobs("task=ensemble", "runs=[last,'a name']", store)
    assert job[-1] == f'runs=["{last}", "a name"]'
    assert jobs(*job) == [job]
