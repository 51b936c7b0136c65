"""Label errors on the embedded photos: planted, found, reviewed, and what training on the corrected labels gains.

    python experiments/label_errors.py [keys of every training, e.g. epochs=2 dataset.train_images=2000]

Three trainings on labels of which 5 % are a look-alike's; the ranked list of the first one's three folds; three
trainings that follow the list unseen where its score is high, three that follow it after a review, in which the truth
takes the reviewer's place, and three on the truth, which no review can do better than.  Curve and table are left in
experiments/label_errors/, the lists beside the first list, in the folder of its run.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from after_training import PROJECT, run_command  # and with it the project's path
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rp2k_lab.ablation.significance import judge, paired_difference
from rp2k_lab.ablation.verdict import class_weights
from rp2k_lab.analysis.artifacts import LABEL_ERRORS
from rp2k_lab.cli.app import register_resolvers
from rp2k_lab.config.schema import parse
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.dataset.shelf.generate import TRUTH_FILE
from rp2k_lab.tracking.mlflow_runs import RunStore

SEEDS = (0, 1, 2)
SCORE = 0.8  # as task.suspicion
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
    decided = dict(zip(lists, decide(folder / LABEL_ERRORS, index_of(extra, None)), strict=True))
    for name, file in lists.items():
        decided[name].to_csv(file, index=False)
    runs |= {name: train(extra, file) for name, file in lists.items()}
    table = compare({name: [store.get(run) for run in each] for name, each in runs.items()})
    changed = {name: int((each["decision"] == "yes").sum()) for name, each in decided.items()}
    table["labels_changed"] = table["level"].map(changed)
    table["wrong_labels"] = table["level"].map({name: wrong_labels(extra, lists.get(name)) for name in runs})
    table.to_csv(RESULTS / "results.csv", index=False, float_format="%.6g")
    print(f"\n{table.to_string(index=False, float_format=lambda value: f'{value:.4f}')}\n\nleft in {RESULTS}")


def train(extra: list[str], relabel: Path | None) -> list[str]:
    """The ids of a training with each seed."""
    given = ["dataset.relabel=null" if relabel is None else f"dataset.relabel={relabel}"]
    return [run_command([*TRAINED_AS, *extra, *given, f"seed={seed}"]) for seed in SEEDS]


def index_of(extra: list[str], relabel: Path | None) -> Index:
    register_resolvers()
    given = [] if relabel is None else [f"dataset.relabel={relabel}"]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        composed = compose("config", [*TRAINED_AS, *extra, *given])
    return build_index(parse(OmegaConf.to_container(composed, resolve=True)).dataset)


def truth_of(index: Index) -> pd.Series:
    """Path to true class."""
    return pd.read_parquet(index.root / TRUTH_FILE).set_index("path")["true_class"]


def decide(listed: Path, index: Index) -> list[pd.DataFrame]:
    """A list for each of LEVELS, with its column decision."""
    table, truth, train = pd.read_csv(listed, keep_default_na=False), truth_of(index), index.split("train")
    right = truth.loc[table["path"]].to_numpy() == table["suggested"].to_numpy()
    every = pd.DataFrame({"path": train["path"], "given": train["class"], "suggested": truth.loc[train["path"]].array})
    every = every[every["given"] != every["suggested"]]
    chosen = [(table, table["score"] >= SCORE), (table, right), (every, True)]
    return [each.assign(decision=np.where(yes, "yes", "no")) for each, yes in chosen]


def wrong_labels(extra: list[str], relabel: Path | None) -> int:
    """Training photos whose label in use is not the true one."""
    index = index_of(extra, relabel)
    train = index.split("train")
    return int((train["class"].to_numpy() != truth_of(index).loc[train["path"]].to_numpy()).sum())


def compare(levels: dict) -> pd.DataFrame:
    """Each level's test top-1 and macro top-1, and its gain over the first with a 95 % interval over seeds and photos.

    Args:
        levels: name to the stored runs of SEEDS, in order.
    """

    def tested(run) -> pd.DataFrame:
        return pd.read_parquet(Path(run.tags["folder"]) / "test" / "predictions.parquet", columns=["true", "correct"])

    tables = {name: [tested(run) for run in runs] for name, runs in levels.items()}
    first, *others = tables
    correct = {name: np.stack([table["correct"] for table in each]) for name, each in tables.items()}
    weights = {"top1": None, "macro_top1": class_weights(pd.factorize(tables[first][0]["true"])[0])}
    rows = []
    for measure, weight in weights.items():
        verdicts = judge([paired_difference(correct[name], correct[first], weight) for name in others])
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
                    "gain": verdict.difference.value,
                    "low": verdict.low,
                    "high": verdict.high,
                    "word": verdict.word,
                }
            rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
