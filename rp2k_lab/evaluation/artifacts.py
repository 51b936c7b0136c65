"""Write a run's files into its folder and log them to the tracker."""

import hashlib
import json
from pathlib import Path

import yaml

from rp2k_lab.config.choices import flatten
from rp2k_lab.config.schema import Config
from rp2k_lab.core.csv_files import csv_text, write_csv
from rp2k_lab.core.files import write_text
from rp2k_lab.core.progress import activity
from rp2k_lab.core.redaction import redact, redact_tree
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation import figures, metrics
from rp2k_lab.evaluation.evaluator import Evaluation, Evaluator
from rp2k_lab.evaluation.metric_registry import Score
from rp2k_lab.evaluation.open_set import OpenSet
from rp2k_lab.tracking.mlflow_runs import OPEN_SET
from rp2k_lab.tracking.provenance import NATIVE, environment, git_state, native_tag
from rp2k_lab.tracking.tracker import MemoryTracker

# MLflow's viewer shows CSV and no parquet; it draws all rows [rows].
_MOST_CSV_ROWS = 5000


def record_origin(tracker: MemoryTracker, config: Config, index: Index, folder: Path) -> None:
    """Record configuration, environment, code, data, classes (in label order) and skipped images."""
    record_request(tracker, config, folder)
    names = {"name": config.dataset.title, "source": redact(str(index.root))}
    tracker.log_inputs(
        [names | {"digest": _digest(index, split), "context": split} for split in ("train", "val", "test")]
    )
    tracker.set_tags(
        {
            "dataset_fingerprint": index.fingerprint,
            "class_groups": index.class_groups()[1],
        }
    )
    files = {"classes.txt": "\n".join(index.classes) + "\n"}
    if config.dataset.on_bad_image == "skip":
        tracker.set_tags({"skipped_photos": len(index.skipped)})
        files["skipped.csv"] = csv_text(index.skipped)
    _record_texts(tracker, files, folder)


def _digest(index: Index, split: str) -> str:
    """Return 16 hexadecimal digits of the images and labels of a split."""
    rows = index.split(split)[["path", "label"]].to_csv(index=False)
    return hashlib.sha256(f"{index.fingerprint} {split}\n{rows}".encode()).hexdigest()[:16]


def record_request(tracker: MemoryTracker, config: Config, folder: Path) -> None:
    """Record configuration, environment and code."""
    # Keys of studies and of the command, not of the run.
    excluded = {"ablation": True, "scale": True, "task": {"resume", "verify"}}
    settings = redact_tree(config.model_dump(mode="json", exclude=excluded))
    tracker.log_params(dict(flatten(settings)))
    git = git_state()
    commit = {"mlflow.source.git.commit": git["git_commit"]} if git["git_commit"] != "unknown" else {}
    tags = {"task": config.task.name, "device": config.device.name, NATIVE: native_tag(), "folder": folder}
    tracker.set_tags(git | commit | tags)
    text = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
    _record_texts(tracker, {"config.yaml": text, "environment.txt": environment()}, folder)


def _record_texts(tracker: MemoryTracker, files: dict[str, str], folder: Path) -> None:
    for name, content in files.items():
        write_text(folder / name, content, sync=True)  # a resume after a power cut needs it
        tracker.log_artifact(folder / name)


@activity("drawing the figures of a split")
def record_evaluation(
    tracker: MemoryTracker, evaluator: Evaluator, evaluation: Evaluation, step: int, folder: Path, prefix: str = ""
) -> dict[str, Score]:
    """Record the scores with their counts, the tables and the figures of a split; return the scores.

    Args:
        prefix: of the metrics; "": the split.
    """
    split, index = evaluator.split, evaluator.index
    predictions, table, scores = evaluation
    values = {f"{prefix or split}/{name}": score.value for name, score in scores.items()}
    tracker.log_metrics(values, step)
    # Tags, because each metric would be a chart with one point.
    tracker.set_tags({f"{split}/{name}": count for name, count in _counts(scores).items()})
    details = metrics.predictions_table(predictions, evaluator.rows, index.classes)
    tables = {
        "per_class": table,
        "confusion_pairs": metrics.confusion_pairs(predictions, index.classes),
        "predictions": details,
    }
    (folder / split).mkdir(exist_ok=True)
    for name, frame in tables.items():
        file = folder / split / f"{name}.parquet"
        frame.to_parquet(file, index=False)
        tracker.log_artifact(file, split)
        if name != "predictions" and len(frame) <= _MOST_CSV_ROWS:
            write_csv(frame, file.with_suffix(".csv"))
            tracker.log_artifact(file.with_suffix(".csv"), split)
    paths = [
        figures.plot_accuracy_over_class_size(table, split, folder / "figures" / f"{split}_accuracy_over_size.png"),
        figures.plot_confused_pairs(details, index, split, folder / "figures" / f"{split}_confused_pairs.png"),
    ]
    for figure in filter(None, paths):
        tracker.log_artifact(figure, "figures")
    return scores


def _counts(scores: dict[str, Score]) -> dict[str, int]:
    """Return the number of images of the split, `count`, and that of each metric of a part of it: `head_count`, …"""
    counts = {}
    for name, score in scores.items():
        tag = name.replace("top1", "count") if "top1" in name else f"{name}_count"
        if name == "top1" or score.count != scores["top1"].count:
            counts[tag] = score.count
    return counts


def record_open_set(tracker: MemoryTracker, open_set: OpenSet, folder: Path) -> None:
    """Record open_set.json, and its temperature as a tag: task.verify compares all metrics with earlier versions'."""
    write_text(folder / OPEN_SET, json.dumps(open_set.as_json()) + "\n", sync=True)
    tracker.log_artifact(folder / OPEN_SET)
    tracker.set_tags({"temperature": f"{open_set.temperature:.4g}"})


@activity("drawing the curves")
def record_training(tracker: MemoryTracker, best: Path, folder: Path) -> None:
    """Record the best checkpoint and the training curves."""
    tracker.log_artifact(best, "checkpoints")
    tracker.log_artifact(figures.plot_curves(tracker.history, folder / "figures" / "curves.png"), "figures")
