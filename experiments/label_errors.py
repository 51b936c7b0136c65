"""Measure label errors on the embedded photos: plant, find and correct them, and train on the corrected labels.

    python experiments/label_errors.py [keys of every training, e.g. epochs=2 dataset.train_images=2000]

Five seeds train on each of four sets of labels: without wrong ones; with a tenth replaced by a look-alike ("as given");
with the list reviewed (the truth replaces the reviewer); with all of these corrected ("truth").  The list comes from
three folds of the first training as given.  Then the trainings as given are scored by a val and a test with as many
wrong labels, and by the same photos corrected.  Tables and curve are written to experiments/label_errors/, the edited
lists to outputs/label_errors/; with keys, all to the latter.  The same command again trains only what is missing.
"""

import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from after_training import PROJECT, recorded, results_folder, run_command, run_script, same_photos
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rp2k_lab.ablation.significance import Block, Runs, judge
from rp2k_lab.ablation.verdict import class_weights
from rp2k_lab.analysis.artifacts import LABEL_ERRORS
from rp2k_lab.cli.app import register_resolvers
from rp2k_lab.config.schema import parse
from rp2k_lab.core.csv_files import write_csv
from rp2k_lab.core.quoting import hydra_value
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.dataset.shelf.generate import TRUTH_FILE

SEEDS = (0, 1, 2, 3, 4)
DOSE = 0.1  # of train; in the second part, of val and test
TRAINED_AS = [
    "dataset.train_images=8000",
    "dataset.test_images=20000",
    "dataset.look_alike_noise_fraction=1",
    "dataset.cache_gb=2",
    "model.width_multiplier=0.25",
    "size=48",
    "epochs=10",
    "task.resume=auto",
]
NOISY_SPLITS = "dataset.noisy_splits=[train,val,test]"
GIVEN, CLEAN, REVIEWED, TRUTH = "as given", "no wrong labels", "list reviewed", "truth"
LISTS = PROJECT / "outputs" / "label_errors"


def main() -> None:
    extra = sys.argv[1:]
    common = [override for override in extra if override.startswith("tracking.")]
    keys = [*TRAINED_AS, *extra]
    noisy = [*keys, f"dataset.label_noise={DOSE}"]
    runs = {GIVEN: train(noisy)}
    [errors] = recorded([run_command(["task=errors", f"runs={runs[GIVEN][0]}", "task.folds=3", *common])], common)
    folder = Path(errors.tags["folder"])
    decisions = dict(zip((REVIEWED, TRUTH), decide(folder / LABEL_ERRORS, index_of(noisy, None)), strict=True))
    lists = {name: write_list(name, each) for name, each in decisions.items()}
    runs |= {name: train([*noisy, f"dataset.relabel={hydra_value(str(file))}"]) for name, file in lists.items()}
    runs[CLEAN] = train(keys)
    table = compare({name: recorded(each, common) for name, each in runs.items()})
    changed = {name: int((each["decision"] == "yes").sum()) for name, each in decisions.items()}
    table["labels_changed"] = table["level"].map(changed)
    left = {name: wrong_labels(noisy, lists.get(name)) for name in (GIVEN, *lists)} | {CLEAN: 0}
    table["wrong_labels"] = table["level"].map(left)
    truth = truth_of(index_of([*noisy, NOISY_SPLITS], None))
    scored = zip(runs[GIVEN], SEEDS, strict=True)
    scores = pd.concat([scores_by_labels(run, seed, truth, common) for run, seed in scored])
    results = results_folder("label_errors", extra)
    shutil.copy(folder / "label_errors_curve.svg", results)
    for name, each in (("results.csv", table), ("scores.csv", scores)):
        write_csv(each, results / name, float_format="%.6g")
        print(f"\n{each.to_string(index=False, float_format=lambda value: f'{value:.4f}')}")
    print(f"\nwritten to {results}")


def train(keys: list[str]) -> list[str]:
    """Train with each seed; return the run ids."""
    return [run_command([*keys, f"seed={seed}"]) for seed in SEEDS]


def scores_by_labels(run: str, seed: int, truth: pd.Series, common: list[str]) -> pd.DataFrame:
    """Return the top-1 of a run on a val and a test with wrong labels: by these labels, and by the true ones.

    Args:
        truth: from `truth_of`, of these photos.

    Returns:
        A row a split: split, seed, images, wrong_labels, top1_given, top1_true.
    """
    evaluated = run_command(["task=evaluate", f"runs={run}", NOISY_SPLITS, "task.split=[val,test]", *common])
    [evaluated] = recorded([evaluated], common)
    folder, rows = Path(evaluated.tags["folder"]), []
    for split in ("val", "test"):
        predictions = pd.read_parquet(folder / split / "predictions.parquet", columns=["path", "true", "top1"])
        true = truth.loc[predictions["path"]].to_numpy()
        wrong = int((true != predictions["true"]).sum())
        by_given, by_true = (float((predictions["top1"] == labels).mean()) for labels in (predictions["true"], true))
        rows.append((split, seed, len(true), wrong, by_given, by_true))
    return pd.DataFrame(rows, columns=["split", "seed", "images", "wrong_labels", "top1_given", "top1_true"])


def write_list(name: str, decisions: pd.DataFrame) -> Path:
    """Write a list to relabel by, named by its content: other decisions are other trainings."""
    text = decisions.to_csv(index=False, lineterminator="\n")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    file = LISTS / f"{name.replace(' ', '_')}_{digest}.csv"
    LISTS.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def index_of(keys: list[str], relabel: Path | None) -> Index:
    """Return the index of the training data, relabeled if there is a list."""
    register_resolvers()
    given = [] if relabel is None else [f"dataset.relabel={hydra_value(str(relabel))}"]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        composed = compose("config", [*keys, *given])
    return build_index(parse(OmegaConf.to_container(composed, resolve=True)).dataset)


def truth_of(index: Index) -> pd.Series:
    """Return path to true class."""
    return pd.read_parquet(index.root / TRUTH_FILE).set_index("path")["true_class"]


def decide(listed: Path, index: Index) -> list[pd.DataFrame]:
    """Return the list as reviewed, and a list of all wrong labels, both with a column decision."""
    table, truth, train = pd.read_csv(listed, keep_default_na=False), truth_of(index), index.split("train")
    correct = truth.loc[table["path"]].to_numpy() == table["suggested"].to_numpy()
    wrong = pd.DataFrame({"path": train["path"], "given": train["class"], "suggested": truth.loc[train["path"]].array})
    wrong = wrong[wrong["given"] != wrong["suggested"]]
    accepted = [(table, correct), (wrong, True)]
    return [each.assign(decision=np.where(yes, "yes", "no")) for each, yes in accepted]


def wrong_labels(keys: list[str], relabel: Path | None) -> int:
    """Return the number of training images whose current label is wrong."""
    index = index_of(keys, relabel)
    train = index.split("train")
    return int((train["class"].to_numpy() != truth_of(index).loc[train["path"]].to_numpy()).sum())


def compare(levels: dict) -> pd.DataFrame:
    """Return test top-1 and macro top-1 of each level, and its gain over the first with a 95 % interval.

    The interval is over seeds and images.

    Args:
        levels: name to the recorded runs of SEEDS, in order.
    """

    def predictions(run) -> pd.DataFrame:
        return pd.read_parquet(
            Path(run.tags["folder"]) / "test" / "predictions.parquet", columns=["path", "true", "correct"]
        )

    tables = {name: [predictions(run) for run in runs] for name, runs in levels.items()}
    first, *others = tables
    same_photos([table for each in tables.values() for table in each])
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
    run_script(main)
