"""The benchmarks run and print their ratio; the values on a busy test machine are not checked."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from benchmarks import live_search
from benchmarks.timing import interleave, median_interval
from rp2k_lab import PROJECT

QUICK = {
    "train_step": (["--models", "resnet18", "--size", "32", "--batch-size", "4", "--rounds", "2"], "ratio"),
    "input_pipeline": (["--photos", "128", "--size", "64", "--rounds", "2"], "/ native, stretch:"),
    "index": (["--photos", "200", "400", "--rounds", "2"], "second start, time per photo, 400 / 200 photos:"),
    "sweep": (
        ["--rounds", "2", "--dimensions", "aug=none,cutout", "--seeds", "0", "epochs=1", "batch_size=4",
         "model.width_multiplier=0.125", "model.depth_multiplier=0.25",
         "dataset.classes=4", "dataset.train_images=40", "dataset.val_images=8", "dataset.test_images=16",
         "dataset.min_train_images=5"],
        "trial - command:",
    ),
    "overhead": (
        ["--rounds", "2", "--steps", "5", "size=32", "batch_size=4", "model.width_multiplier=0.125",
         "model.depth_multiplier=0.25", "dataset.classes=4", "dataset.train_images=40",
         "dataset.val_images=8", "dataset.test_images=16", "dataset.min_train_images=5"],
        "tracked / bare:",
    ),
    "evaluate": (
        ["--models", "resnet18", "resnet50", "--rounds", "2", "--photos", "8", "size=32", "batch_size=4",
         "model.width_multiplier=0.125", "model.depth_multiplier=0.25", "dataset.classes=4", "dataset.train_images=40",
         "dataset.val_images=8", "dataset.test_images=16", "dataset.min_train_images=5"],
        "time of ensemble, flip / the sum of its parts:",
    ),
}  # fmt: skip


LONG = ("evaluate", "input_pipeline", "overhead", "sweep", "train_step")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.soak] * (name in LONG)) for name in QUICK])
def test_benchmark_prints_its_ratio_with_an_interval(name):
    arguments, label = QUICK[name]
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(re.escape(label) + r" -?\d+\.\d{3} \[-?\d+\.\d{3}, -?\d+\.\d{3}\], n = 2 rounds", done.stdout), (
        done.stdout
    )


def test_every_benchmark_is_tested():
    files = {file.stem for file in (PROJECT / "benchmarks").glob("*.py")}
    assert files == {*QUICK, "__init__", "live_search", "reference", "timing"}


def test_parts_alternate_in_both_orders():
    calls = []
    parts = {name: (lambda name=name: calls.append(name) or float(len(calls))) for name in "ab"}
    figures = interleave(parts, 2)
    assert calls == ["a", "b", "b", "a"]
    assert figures["a"].tolist() == [1, 4]


def test_median_interval_coverage():
    rng = np.random.default_rng(0)
    covered = [low <= 0 <= high for _, low, high in (median_interval(rng.standard_t(2, 9)) for _ in range(2000))]
    assert 0.95 <= np.mean(covered) <= 0.99  # second to eighth of nine values: 96.1 %


def _trial(lr, values, state=TrialState.COMPLETE, seed=None, seeds=None):
    """A trial of a live search; `values` are those of its epochs."""
    params = {"optimizer.lr": lr, "aug": "none", "batch_size": 16} | ({} if seed is None else {"seed": seed})
    space = {"optimizer.lr": FloatDistribution(0, 1), "aug": CategoricalDistribution(["none"])}
    space |= {"batch_size": IntDistribution(1, 99), "seed": IntDistribution(0, 9)}
    return create_trial(
        state=state,
        value=values[-1] if state == TrialState.COMPLETE else None,
        params=params,
        distributions={key: space[key] for key in params},
        intermediate_values=dict(enumerate(values[:-1] if state == TrialState.COMPLETE else values, 1)),
        user_attrs={"seeds": json.dumps({s: {"top1": top1} for s, top1 in seeds.items()})} if seeds else {},
    )


def test_live_searches_count_epochs_and_compare_the_chosen_point_with_fresh_seeds(tmp_path):
    """The epoch-wise search chooses lr=0.5 for its luck; lr=0.25 is better on fresh seeds."""
    epochs = [_trial(0.5, [0.1, 0.2, 0.3, 0.75]), _trial(0.25, [0.1, 0.2, 0.3, 0.5])]
    epochs += [_trial(0.125, [0.1, 0.1], TrialState.PRUNED), _trial(0.0625, [], TrialState.FAIL)]
    fresh = [
        _trial(lr, [0, 0, 0, top1], seed=s)
        for lr, tops in ((0.5, (0.25, 0.5)), (0.25, (0.5, 0.5)))
        for s, top1 in enumerate(tops, 1)
    ]
    seeds = [_trial(0.5, [0, 0, 0, 0.5], seeds={0: 0.25, 1: 0.5, 2: 0.75})]
    seeds += [_trial(0.25, [0.1], TrialState.PRUNED, seeds={0: 0.125, 1: 0.125})]
    asked = []

    def run(name, dimensions, overrides, folder, *options):
        asked.append((name, *options))
        studies = {name: seeds if name == "live_wilcoxon" else epochs, f"{name}.confirm": fresh}
        for trials in studies.values():
            for number, trial in enumerate(trials):
                trial.number = number
        return studies

    curves = live_search.live_searches(run, 2, tmp_path)
    assert asked[2] == (
        "live_wilcoxon",
        "hydra.sweeper.seeds=[0,1,2]",
        "hydra.sweeper.pruner=wilcoxon",
        "hydra.sweeper.n_trials=2",
    )
    none = curves[(curves["pruner"] == "none") & (curves["part"] == "search")]
    assert none["top1"].tolist() == [0.1, 0.2, 0.3, 0.75, 0.1, 0.2, 0.3, 0.5, 0.1, 0.1]
    assert none["epoch"].tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    rows = [re.split(r"  +", line) for line in live_search.live_table(curves).splitlines()[2:]]
    epoch_wise = ["3", "1", "10", "75.0 %", "37.5 ± 17.7 %", "50.0 ± 0.0 %"]
    assert rows == [
        ["none", *epoch_wise],
        ["median", *epoch_wise],
        ["wilcoxon", "2", "1", "20", "50.0 %", "37.5 ± 17.7 %", "50.0 ± 0.0 %"],
    ]


def test_the_committed_live_searches_are_what_the_documentation_says():
    table = live_search.live_table(pd.read_csv(live_search.CURVES))
    text = (PROJECT / "docs" / "studies.md").read_text("utf-8")
    rows = [re.split(r"  +", line) for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == list(live_search.PRUNERS)
    for row in rows:
        assert f"| {' | '.join(row)} |" in text
