"""Measure label errors on the embedded photos: plant, find and correct them, and train on the corrected labels.

    python experiments/label_errors.py [keys of every training, e.g. epochs=2 dataset.train_images=2000]

The script trains three seeds on each of four sets of labels: 5 % replaced by a look-alike ("as given"); the suggestions
with a high score accepted unseen; the list reviewed (the truth replaces the reviewer); the truth, an upper bound.  The
list comes from three folds of the first training.  Curve and table are written to experiments/label_errors/, the
edited lists to the folder of the run of the list.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from after_training import PROJECT, run_command  # also puts the project on sys.path
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rp2k_lab.ablation.significance import Block, Runs, judge
from rp2k_lab.ablation.verdict import class_weights
from rp2k_lab.analysis.artifacts import LABEL_ERRORS
from rp2k_lab.cli.app import register_resolvers
from rp2k_lab.config.schema import parse
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.dataset.shelf.generate import TRUTH_FILE
from rp2k_lab.tracking.mlflow_runs import RunStore

SEEDS = (0, 1, 2)
SCORE = 0.8  # default of task.suspicion
LEVELS = ("list, unseen", "list, reviewed", "truth")
TRAINED_AS = [
    "dataset.train_images=8000",
    "dataset.label_noise=0.05",
    "dataset.look_alike_noise_fraction=1",
    "dataset.cache_gb=1",
    "model.width_multiplier=0.25",
    "size=48",
    "epochs=10",
]
RESULTS = PROJECT / "experiments" / "label_errors"


def main() -> None:
    extra = sys.argv[1:]
    common = [override for override in extra if override.startswith("tracking.")]
    uri = next((override.partition("=")[2] for override in common if override.startswith("tracking.uri=")), None)
    runs = {"labels as given": train(extra, None)}
    errors = run_command(["task=errors", f"runs={runs['labels as given'][0]}", "task.folds=3", *common])
    store = RunStore(uri)
    folder = Path(store.get(errors).tags["folder"])
    RESULTS.mkdir(exist_ok=True)
    shutil.copy(folder / "label_errors_curve.svg", RESULTS)
    lists = {name: folder / f"{name.replace(', ', '_')}.csv" for name in LEVELS}
    decisions = dict(zip(lists, decide(folder / LABEL_ERRORS, index_of(extra, None)), strict=True))
    for name, file in lists.items():
        decisions[name].to_csv(file, index=False)
    runs |= {name: train(extra, file) for name, file in lists.items()}
    table = compare({name: [store.get(run) for run in each] for name, each in runs.items()})
    changed = {name: int((each["decision"] == "yes").sum()) for name, each in decisions.items()}
    table["labels_changed"] = table["level"].map(changed)
    table["wrong_labels"] = table["level"].map({name: wrong_labels(extra, lists.get(name)) for name in runs})
    table.to_csv(RESULTS / "results.csv", index=False, float_format="%.6g")
    print(f"\n{table.to_string(index=False, float_format=lambda value: f'{value:.4f}')}\n\nwritten to {RESULTS}")


def train(extra: list[str], relabel: Path | None) -> list[str]:
    """Train with each seed; return the run ids."""
    given = ["dataset.relabel=null" if relabel is None else f"dataset.relabel={relabel}"]
    return [run_command([*TRAINED_AS, *extra, *given, f"seed={seed}"]) for seed in SEEDS]


def index_of(extra: list[str], relabel: Path | None) -> Index:
    """Return the index of the training data, relabeled if there is a list."""
    register_resolvers()
    given = [] if relabel is None else [f"dataset.relabel={relabel}"]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        composed = compose("config", [*TRAINED_AS, *extra, *given])
    return build_index(parse(OmegaConf.to_container(composed, resolve=True)).dataset)


def truth_of(index: Index) -> pd.Series:
    """Return path to true class."""
    return pd.read_parquet(index.root / TRUTH_FILE).set_index("path")["true_class"]


def decide(listed: Path, index: Index) -> list[pd.DataFrame]:
    """Return a list for each of LEVELS, with its column decision."""
    table, truth, train = pd.read_csv(listed, keep_default_na=False), truth_of(index), index.split("train")
    correct = truth.loc[table["path"]].to_numpy() == table["suggested"].to_numpy()
    wrong = pd.DataFrame({"path": train["path"], "given": train["class"], "suggested": truth.loc[train["path"]].array})
    wrong = wrong[wrong["given"] != wrong["suggested"]]
    accepted = [(table, table["score"] >= SCORE), (table, correct), (wrong, True)]
    return [each.assign(decision=np.where(yes, "yes", "no")) for each, yes in accepted]


def wrong_labels(extra: list[str], relabel: Path | None) -> int:
    """Return the number of training images whose current label is wrong."""
    index = index_of(extra, relabel)
    train = index.split("train")
    return int((train["class"].to_numpy() != truth_of(index).loc[train["path"]].to_numpy()).sum())


def compare(levels: dict) -> pd.DataFrame:
    """Return test top-1 and macro top-1 of each level, and its gain over the first with a 95 % interval.

    The interval is over seeds and images.

    Args:
        levels: name to the recorded runs of SEEDS, in order.
    """

    def predictions(run) -> pd.DataFrame:
        return pd.read_parquet(Path(run.tags["folder"]) / "test" / "predictions.parquet", columns=["true", "correct"])

    tables = {name: [predictions(run) for run in runs] for name, runs in levels.items()}
    first, *others = tables
    correct = {name: np.stack([table["correct"] for table in each]) for name, each in tables.items()}
    weights = {"top1": None, "macro_top1": class_weights(pd.factorize(tables[first][0]["true"])[0])}
    rows = []
    for measure, weight in weights.items():
        levels = tuple(Runs.of(SEEDS, correct[name], weight) for name in tables)
        [verdicts] = judge([Block(levels, tuple((i + 1, 0) for i, _ in enumerate(others)))])
        for name, verdict in zip(tables, [None, *verdicts], strict=True):
            value = np.average(correct[name].mean(axis=0), weights=weight)
            row = {
                "measure": measure,
                "level": name,
                "value": value,
                "seeds": len(SEEDS),
                "images": correct[name].shape[1],
            }
            if verdict is not None:
                row |= {
                    "gain": verdict.value,
                    "low": verdict.low,
                    "high": verdict.high,
                    "word": verdict.word,
                }
            rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
