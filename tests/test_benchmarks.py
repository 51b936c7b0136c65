"""The benchmarks run and print their ratio; the values on a busy test machine are not checked."""

import re
import subprocess
import sys

import numpy as np
import pytest

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
    assert files == {*QUICK, "__init__", "reference", "timing"}


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
