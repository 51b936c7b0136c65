"""What a run leaves behind: files in its folder, and the same in the tracker."""

from pathlib import Path

import yaml

from rp2k_lab.config.choices import flatten
from rp2k_lab.config.schema import Config
from rp2k_lab.core.redaction import redact_tree
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation import figures, metrics
from rp2k_lab.evaluation.evaluator import Evaluation, Evaluator
from rp2k_lab.evaluation.metrics import Score
from rp2k_lab.tracking.provenance import environment, git_state
from rp2k_lab.tracking.tracker import MemoryTracker


def record_origin(tracker: MemoryTracker, config: Config, index: Index, folder: Path) -> None:
    """Configuration, environment, code, data, class list (in the labels' order) and skipped photos of a run."""
    record_request(tracker, config, folder)
    tracker.set_tags(
        {
            "dataset_fingerprint": index.fingerprint,
            "class_groups": metrics.class_groups(index.train_counts())[1],
        }
    )
    files = {"classes.txt": "\n".join(index.classes) + "\n"}
    if config.dataset.on_bad_image == "skip":
        tracker.set_tags({"skipped_photos": len(index.skipped)})
        files["skipped.csv"] = index.skipped.to_csv(index=False)
    _record_texts(tracker, files, folder)


def record_request(tracker: MemoryTracker, config: Config, folder: Path) -> None:
    """Configuration, environment and code of a run."""
    # Those of tables, and those of a command, are not of a run.
    of_none = {"ablation": True, "scale": True, "task": {"resume", "verify"}}
    settings = redact_tree(config.model_dump(mode="json", exclude=of_none))
    tracker.log_params(dict(flatten(settings)))
    tracker.set_tags(git_state() | {"task": config.task.name, "device": config.device.name, "folder": folder})
    text = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
    _record_texts(tracker, {"config.yaml": text, "environment.txt": environment()}, folder)


def _record_texts(tracker: MemoryTracker, files: dict[str, str], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
        tracker.log_artifact(folder / name)


def record_split(
    tracker: MemoryTracker, evaluator: Evaluator, others: str | None, step: int, folder: Path
) -> dict[str, Score]:
    """Evaluate a split and record its scores with their counts, its tables and its figures.

    Args:
        step: training steps that the weights have seen, for the metrics.
    """
    return record_evaluation(tracker, evaluator, evaluator.evaluate(others), step, folder)


def record_evaluation(
    tracker: MemoryTracker, evaluator: Evaluator, evaluation: Evaluation, step: int, folder: Path
) -> dict[str, Score]:
    """The same of what the evaluator has found before."""
    split, index = evaluator.split, evaluator.index
    predictions, table, scores = evaluation
    values = {f"{split}/{name}": score.value for name, score in scores.items()}
    counted = {name: score.count for name, score in scores.items() if name not in ("top5", "macro_top1")}
    tracker.log_metrics(values, step)
    # As tags: among the metrics each would be a chart of one point.
    tracker.set_tags({f"{split}/{name.replace('top1', 'count')}": count for name, count in counted.items()})
    details = metrics.predictions_table(predictions, evaluator.rows["path"], index.classes)
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
    drawn = [
        figures.plot_accuracy_over_class_size(table, split, folder / "figures" / f"{split}_accuracy_over_size.png"),
        figures.plot_confused_pairs(details, index, split, folder / "figures" / f"{split}_confused_pairs.png"),
    ]
    for figure in filter(None, drawn):
        tracker.log_artifact(figure, "figures")
    return scores


def record_training(tracker: MemoryTracker, best: Path, folder: Path) -> None:
    """The best checkpoint and the curves."""
    tracker.log_artifact(best, "checkpoints")
    tracker.log_artifact(figures.plot_curves(tracker.history, folder / "figures" / "curves.png"), "figures")
