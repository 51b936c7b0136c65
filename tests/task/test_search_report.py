"""task=report of a search: documents from its study in a real database, and refusals."""

import datetime
import json

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.sweep.search_results import SearchPoint, pareto_set, read_search
from rp2k_lab.sweep.space import point_key
from rp2k_lab.task import report

RATE, AUG = FloatDistribution(0.01, 1.0, log=True), CategoricalDistribution(["none", "<b>cutout"])
START = datetime.datetime(2026, 1, 1)


def add(study, params, top1, state=TrialState.COMPLETE, seconds=10.0, **attributes):
    """Add a trial that took some seconds."""
    space = {"optimizer.lr": RATE, "aug": AUG} | ({"seed": IntDistribution(0, 9)} if "seed" in params else {})
    attributes = {"point": point_key(params), "worker": "w"} | attributes
    value = None if state == TrialState.FAIL else top1
    trial = create_trial(state=state, value=value, params=params, distributions=space, user_attrs=attributes)
    trial.datetime_start, trial.datetime_complete = START, START + datetime.timedelta(seconds=seconds)
    study.add_trial(trial)


@pytest.fixture
def storage(tmp_path):
    """URL of a database with the studies `rates`, `rates.confirm`, `few`, `seeded`, `table` and `empty`."""
    url = f"sqlite:///{tmp_path}/optuna.db"
    database = optuna.storages.RDBStorage(url)
    definition = {"optimizer.lr": str(RATE), "aug": str(AUG), "fixed": "epochs=2"}

    def new(name, definition=definition):
        study = optuna.create_study(study_name=name, storage=database, direction="maximize")
        study.set_user_attr("definition", definition)
        return study

    rates = new("rates")
    for i in range(12):
        params = {"optimizer.lr": 10 ** (-2 + i / 6), "aug": AUG.choices[i % 2]}
        add(rates, params, 0.25 + 0.03125 * i, seconds=10 + 5 * (i % 4))
    add(rates, {"optimizer.lr": 0.5, "aug": "none"}, 0.875, seconds=9999, resumes=3)
    add(rates, {"optimizer.lr": 0.6, "aug": "none"}, 0.1, TrialState.PRUNED)
    add(rates, {"optimizer.lr": 0.7, "aug": "none"}, 0.1, TrialState.FAIL, reason="val top-1 is NaN")
    again = new("rates.confirm", definition | {"confirms": "rates"})
    for lr, tops in ((0.5, (0.25, 0.5, 0.75)), (10 ** (-2 + 11 / 6), (0.5, 0.5, 0.625))):
        for seed, top1 in enumerate(tops, 1):
            add(again, {"optimizer.lr": lr, "aug": AUG.choices[lr != 0.5], "seed": seed}, top1)
    add(new("few"), {"optimizer.lr": 0.5, "aug": "none"}, 0.5)
    runs = {seed: {"top1": top1, "seconds": 7.0 + seed} for seed, top1 in ((0, 0.25), (1, 0.5), (2, 0.75))}
    add(new("seeded"), {"optimizer.lr": 0.5, "aug": "none"}, 0.5, seconds=500, seeds=json.dumps(runs))
    new("table", {"stretch": "resize=stretch"})
    new("empty")
    database.engine.dispose()
    return url


@pytest.fixture
def request_of(compose, tmp_path, storage):
    options = (f"task.output={tmp_path / 'out'}", f"task.storage={storage}")
    return lambda *overrides: parse(compose("task=report", *options, *overrides))


def test_report_of_a_confirmed_search(request_of, tmp_path, capsys):
    report.run(request_of("task.study=rates"), tmp_path)
    folder = tmp_path / "out"
    figures = {"pareto.svg", "parallel_coordinates.svg", "importance.svg"}
    assert {file.name for file in folder.iterdir()} == {"README.md", "report.html"} | figures
    text, page = (folder / "README.md").read_text(), (folder / "report.html").read_text()
    assert "Trials: 13 complete, 1 failed, 1 pruned" in text
    # The best value of the search, 87.5 %, is not the winner.
    winner = r"val top-1 54.2 ± 7.2 % on fresh seeds, 59.4 % in the search: optimizer.lr=0.6813, aug=&lt;b&gt;cutout"
    assert winner in text
    assert "    python run.py epochs=2 optimizer.lr=0.6812920690579611 aug=<b>cutout\n" in text
    assert "| optimizer.lr | 0.01 to 1, logarithmic |" in text
    assert "| optimizer.lr=0.5, aug=none | 12 | 87.5 % | 50.0 ± 25.0 % | -37.5 |" in text
    assert "1 resumed trials, whose time is unknown, are left out." in text
    assert "9999" not in text
    front = text.split("(pareto.svg)")[1].split("## ")[0]
    assert [line.split(" | ")[1:] for line in front.splitlines() if "optimizer" in line] == [
        ["8", "50.0 %", "10 s |"],
        ["9", "53.1 %", "15 s |"],
        ["10", "56.2 %", "20 s |"],
        ["11", "59.4 %", "25 s |"],
    ]
    assert "<b>cutout" not in page
    assert page.count("<svg") == 3
    out = capsys.readouterr().out
    assert "winner      val top-1 54.2 ± 7.2 % on fresh seeds, 59.4 % in the search" in out


def test_importance_finds_the_dimension_that_decides_and_repeats(storage):
    first, second = (read_search("rates", storage).importances for _ in range(2))
    assert first == second
    assert list(first) == ["optimizer.lr", "aug"]
    assert first["optimizer.lr"] > 0.8
    assert sum(first.values()) == pytest.approx(1)


def test_report_of_few_trials_without_confirmation_says_so(request_of, tmp_path, capsys):
    report.run(request_of("task.study=few"), tmp_path)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "val top-1 50.0 % in the search, not confirmed: optimizer.lr=0.5, aug=none" in text
    assert "Needs 10 complete trials with different values; there are 1." in text
    assert "hydra.sweeper.confirm=3" in text
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"README.md", "report.html", "pareto.svg"}


def test_a_trial_of_several_seeds_has_its_spread_and_the_time_of_one_training(request_of, tmp_path, storage):
    report.run(request_of("task.study=seeded"), tmp_path)
    assert "| 0 | 0.5 | none | 50.0 ± 25.0 % | 8 s |" in (tmp_path / "out" / "README.md").read_text()
    (point,) = read_search("seeded", storage).points
    assert point.by_seed == {0: 0.25, 1: 0.5, 2: 0.75}


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("nosuch", r"^task\.study=nosuch: no such study\nuse the name "),
        ("table", r"^task\.study=table: is a table, no search\nadd ablation=<table>"),
        ("rates.confirm", r"^task\.study=rates\.confirm: is the confirmation of a search\nuse task\.study=rates$"),
        ("empty", r"^task\.study=empty: no trial is complete\nrun the command of the search again"),
    ],
)
def test_a_study_without_a_report_is_refused(request_of, tmp_path, study, message):
    with pytest.raises(RequestError, match=message):
        report.run(request_of(f"task.study={study}"), tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_search_beside_two_runs_is_refused(request_of):
    with pytest.raises(RequestError, match=r"^task\.study=rates and runs=a,b: task=report takes either"):
        request_of("task.study=rates", "runs=[a,b]")


def test_pareto_set():
    def point(trial, top1, seconds):
        return SearchPoint(trial, {}, top1, {}, seconds)

    best = [point(0, 0.5, 10), point(1, 0.75, 20)]
    others = [point(2, 0.5, 11), point(3, 0.25, 10), point(4, 0.75, 21), point(5, 0.875, None), point(6, 0.0, 5)]
    assert pareto_set([*reversed(best), *others]) == [others[-1], *best]
    assert pareto_set(others[3:4]) == []
