"""Train the recipes of real photos with three seeds, and measure what each step brought.

    python experiments/real_photos.py grocery_store dataset.root=FOLDER
    python experiments/real_photos.py grozi120 dataset.table=FILE

Further keys apply to the recipe's training and, unless it sets them itself, to the classifier's (tracking.… to all
steps).  A step is compared with the one before on the same photos: those of val for Grocery Store, whose test list is
not read, and of test for GroZi-120, where the photos of a scene count as one.  The table is written to
experiments/<set>/, with further keys to outputs/<set>/.  The same command again trains what is missing, and repeats
FixRes and the evaluations.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from after_training import recorded, results_folder, run_command, run_commands, run_script, same_photos
from scipy.stats import t

from rp2k_lab.ablation.significance import Block, Runs, judge
from rp2k_lab.ablation.verdict import class_weights
from rp2k_lab.core.csv_files import write_csv
from rp2k_lab.core.text import text_table
from rp2k_lab.evaluation.metrics import independent_units
from rp2k_lab.tracking.mlflow_runs import RunInfo

SEEDS = (0, 1, 2)
FROZEN = ["model.freeze=backbone", "aug=none", "aug.crop=null", "aug.flip=0", "aug.color=0", "crop_ratio=1"]
FROZEN += ["model.drop_rate=0", "optimizer.ema_decay=null", "optimizer.lr=0.1", "task.then=null", "epochs=30"]
HEAD = "classifier alone, on ImageNet features"


@dataclass(frozen=True)
class Experiment:
    """Steps of a recipe, in order, each with a run of every seed.

    Attributes:
        split: that is measured.
        head: keys of the classifier alone.
        recipe: names of the runs that the recipe's command leaves, in order.
        later: name to keys of an evaluation of the recipe's last run.
    """

    split: str
    head: tuple[str, ...]
    recipe: tuple[str, ...]
    later: dict[str, tuple[str, ...]]


EXPERIMENTS = {
    "grocery_store": Experiment(
        split="val",
        head=("size=224",),
        recipe=("all layers, 160 of 224 pixels", "FixRes at 224 pixels"),
        later={"mirror image too": ("task.split=val", "task.tta=hflip")},
    ),
    "grozi120": Experiment(
        split="test",
        head=(),
        recipe=("all layers",),
        later={"tested": ("task.split=test",), "mirror image too": ("task.split=test", "task.tta=hflip")},
    ),
}


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in EXPERIMENTS:
        sys.exit(__doc__)
    name, keys = sys.argv[1], sys.argv[2:]
    experiment, common = EXPERIMENTS[name], [key for key in keys if key.startswith("tracking.")]
    runs, seconds = {}, []
    for seed in SEEDS:
        request = [f"recipe={name}", *keys, f"seed={seed}", "task.resume=auto"]
        [head] = run_commands([*request, *FROZEN, *experiment.head])
        started = time.monotonic()
        trained = run_commands(request)
        seconds.append(time.monotonic() - started)
        steps = {HEAD: head} | dict(zip(experiment.recipe, trained, strict=True))
        for step, evaluation in experiment.later.items():
            [steps[step]] = run_commands(["task=evaluate", f"runs={trained[-1]}", *evaluation, *common])
        for step, run in zip(steps, recorded(steps.values(), common), strict=True):
            runs.setdefault(step, []).append(run)
    if experiment.split == "test":  # the recipe does not read it: its evaluation does
        runs |= {HEAD: tested(runs[HEAD], common), experiment.recipe[-1]: runs.pop("tested")}
        runs = {step: runs[step] for step in (HEAD, *experiment.recipe, "mirror image too")}
    table = compare(runs, experiment.split)
    file = results_folder(name, keys) / "steps.csv"
    write_csv(table, file, float_format="%.6g")
    print(f"\n{text_table([list(table), *table.astype(str).to_numpy().tolist()])}")
    minutes = ", ".join(f"{each / 60:.1f}" for each in seconds)
    print(f"\nthe recipe's command took {minutes} minutes, without what was trained before\nwritten to {file}")


def tested(runs: list[RunInfo], common: list[str]) -> list[RunInfo]:
    """Return an evaluation on test of each run."""
    request = ["task=evaluate", "task.split=test", *common]
    return recorded([run_command([*request, f"runs={run.run_id}"]) for run in runs], common)


def compare(runs: dict[str, list[RunInfo]], split: str) -> pd.DataFrame:
    """Return a row a step and measure: mean over seeds, and its gain over the step before.

    Photos of a group count as one.  The interval of a value is for these seeds on other photos (Student's t); those of
    gains are simultaneous over the gains of a measure, over seeds and photos.  Steps after the recipe's training start
    from its runs, so they are compared run by run.

    Returns:
        measure, step, value, value_low, value_high, seeds, photos, units (independent ones), gain, low, high
        (fractions) and word.
    """
    tables = {step: [predictions(run, split) for run in each] for step, each in runs.items()}
    first = same_photos([table for each in tables.values() for table in each])
    clusters = independent_units(first)
    weights = {"top1": None, "macro_top1": class_weights(pd.factorize(first["true"])[0])}
    rows = []
    for measure, weight in weights.items():
        correct = [np.stack([table["correct"] for table in each]) for each in tables.values()]
        levels = tuple(Runs.of(SEEDS, each, weight, clusters) for each in correct)
        later = Block(levels[1:], tuple((i, i - 1) for i in range(1, len(levels) - 1)), is_paired=True)
        gains = [verdict for block in judge([Block(levels[:2], ((1, 0),)), later]) for verdict in block]
        for step, level, verdict in zip(tables, levels, [None, *gains], strict=True):
            units = level.values.mean(axis=0)
            value, half = units.mean(), t.ppf(0.975, len(units) - 1) * units.std(ddof=1) / len(units) ** 0.5
            row = {"measure": measure, "step": step, "value": value, "value_low": value - half}
            row |= {"value_high": value + half, "seeds": len(SEEDS), "photos": level.images, "units": len(units)}
            if verdict is not None:
                row |= {"gain": verdict.value, "low": verdict.low, "high": verdict.high, "word": verdict.word}
            rows.append(row)
    return pd.DataFrame(rows)


def predictions(run: RunInfo, split: str) -> pd.DataFrame:
    """Return path, true, correct, and group if there are groups."""
    return pd.read_parquet(Path(run.tags["folder"]) / split / "predictions.parquet")


if __name__ == "__main__":
    run_script(main)
