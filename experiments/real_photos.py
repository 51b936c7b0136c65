"""Train the recipes of real photos with three seeds, and measure what each step brought.

    python experiments/real_photos.py grocery_store dataset.root=FOLDER
    python experiments/real_photos.py grozi120 dataset.table=FILE

Further keys apply to every training (tracking.… to all steps).  A step is compared with the one before on the same
photos: those of val for Grocery Store, whose test list is not read, and of test for GroZi-120, where the photos of a
scene count as one.  Tables are written to experiments/<set>/.  The same command again trains only what is missing.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from after_training import PROJECT, run_commands  # also puts the project on sys.path
from scipy.stats import t

from rp2k_lab.ablation.significance import Block, Runs, judge
from rp2k_lab.ablation.verdict import class_weights
from rp2k_lab.core.text import text_table
from rp2k_lab.tracking.mlflow_runs import RunInfo, RunStore

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
    uri = next((key.partition("=")[2] for key in common if key.startswith("tracking.uri=")), None)
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
        store = RunStore(uri)  # the first run makes it
        for step, run in steps.items():
            runs.setdefault(step, []).append(store.get(run))
    if experiment.split == "test":  # the recipe does not read it: its evaluation does
        runs |= {HEAD: tested(runs[HEAD], store, common), experiment.recipe[-1]: runs.pop("tested")}
        runs = {step: runs[step] for step in (HEAD, *experiment.recipe, "mirror image too")}
    table = compare(runs, experiment.split)
    folder = PROJECT / "experiments" / name
    table.to_csv(folder / "steps.csv", index=False, float_format="%.6g")
    print(f"\n{text_table([list(table), *table.astype(str).to_numpy().tolist()])}")
    print(f"\nthe recipe's command took {', '.join(f'{each / 60:.1f}' for each in seconds)} minutes")
    print(f"written to {folder / 'steps.csv'}")


def tested(runs: list[RunInfo], store: RunStore, common: list[str]) -> list[RunInfo]:
    """Return an evaluation on test of each run."""
    done = (run_commands(["task=evaluate", f"runs={run.run_id}", "task.split=test", *common]) for run in runs)
    return [store.get(run) for [run] in done]


def compare(runs: dict[str, list[RunInfo]], split: str) -> pd.DataFrame:
    """Return a row a step and measure: mean over seeds, and its gain over the step before.

    Photos of a group count as one.  The interval of a value is for these seeds on other photos (Student's t); those of
    gains are simultaneous over the gains of a measure, over seeds and photos.

    Returns:
        measure, step, value, value_low, value_high, seeds, photos, units (independent ones), gain, low, high
        (fractions) and word.
    """
    tables = {step: [predictions(run, split) for run in each] for step, each in runs.items()}
    first = next(iter(tables.values()))[0]
    clusters = first["group"].where(first["group"] != "", first["path"]) if "group" in first else None
    weights = {"top1": None, "macro_top1": class_weights(pd.factorize(first["true"])[0])}
    rows = []
    for measure, weight in weights.items():
        correct = [np.stack([table["correct"] for table in each]) for each in tables.values()]
        levels = tuple(Runs.of(SEEDS, each, weight, clusters) for each in correct)
        [verdicts] = judge([Block(levels, tuple((i, i - 1) for i in range(1, len(levels))))])
        for step, level, verdict in zip(tables, levels, [None, *verdicts], strict=True):
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
    main()
