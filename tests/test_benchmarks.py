"""The benchmarks run and print their ratio; the values on a busy test machine are not checked."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from benchmarks import gpu, live_search
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
    "gpu": (
        ["--device", "cpu", "--models", "resnet18", "--precisions", "float32", "O2", "--size", "32",
         "--batch-size", "4", "--classes", "10", "--minutes", "4", "size=32", "batch_size=4",
         "model.width_multiplier=0.125", "model.depth_multiplier=0.25", "dataset.classes=4",
         "dataset.train_images=120", "dataset.val_images=8", "dataset.test_images=16", "dataset.min_train_images=5"],
        "tracked / bare:",
    ),
    "extend": (
        ["--size", "32", "--classes", "30", "--products", "4", "--batch-size", "8", "--rounds", "2"],
        "enrollment / forward passes",
    ),
    "neighbors": (
        ["--vectors", "2000", "--width", "16", "--queries", "32", "--rounds", "2"],
        "faiss flat / NumPy:",
    ),
    "serving": (
        ["--rounds", "2", "--size", "32", "--width-multiplier", "0.125"],
        "HTTP / ONNX Runtime, 1 photo:",
    ),
}  # fmt: skip


LONG = ("evaluate", "extend", "gpu", "input_pipeline", "overhead", "serving", "sweep", "train_step")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.soak] * (name in LONG)) for name in QUICK])
def test_benchmark_prints_its_ratio_with_an_interval(name, tmp_path):
    arguments, label = QUICK[name]
    if name == "gpu":
        arguments = [*arguments, "--output", str(tmp_path / "gpu.json")]
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(re.escape(label) + r" -?\d+\.\d{3} \[-?\d+\.\d{3}, -?\d+\.\d{3}\], n = 2 rounds", done.stdout), (
        done.stdout
    )


class TestGpu:
    @pytest.fixture
    def session(self, monkeypatch):
        return gpu.Session(SimpleNamespace(minutes=1.0))

    def test_a_part_that_fails_or_comes_too_late_is_named(self, session):
        def fail(reason):
            raise gpu.PartFailed(reason)

        assert session.part("a", lambda x: x + 1, 1) == 2
        assert session.part("b", fail, "out of memory") is None
        session.options.minutes = 0
        assert session.part("c", fail, "never called") is None
        assert session.left_out == ["b: out of memory", "c: --minutes 0 are over"]

    @pytest.mark.slow
    def test_a_process_fails_with_the_line_of_its_error(self, session):
        code = (
            "import sys; sys.exit('ValueError: no such layer\\n- The Traceback of Net Construct Code:\\n(See file x)')"
        )
        with pytest.raises(gpu.PartFailed, match=r"^ValueError: no such layer$"):
            gpu.run_process(session, ["-c", code])

    def test_a_row_has_both_speeds_their_ratio_and_the_distance_of_the_logits(self, tmp_path):
        np.save(tmp_path / "cpu.npy", [[1.0, 3.0]])
        np.save(tmp_path / "gpu.npy", [[1.5, 3.0]])
        assert gpu.distance(tmp_path / "gpu.npy", tmp_path / "cpu.npy") == 0.5
        assert gpu.distance(tmp_path / "gpu.npy", tmp_path / "none.npy") is None
        ours = {"images_per_second": [100.0, 120.0, 110.0], "gb": 2.5}
        measured = {"model": "resnet18", "precision": "O3", "rp2k-lab": ours, "timm": None, "logits_off_by": None}
        assert " ".join(gpu.row_of(measured).split()) == "resnet18 O3 110 [100, 120] – – 2.5 GB –"
        measured |= {"timm": {"images_per_second": [220.0]}, "logits_off_by": 0.5}
        row = "resnet18 O3 110 [100, 120] 220 [220, 220] 0.50 2.5 GB 5.0e-01"
        assert " ".join(gpu.row_of(measured).split()) == row


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
