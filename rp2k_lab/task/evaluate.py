"""task=evaluate: evaluate an earlier run on any split, size, resize and crop, with test-time augmentation."""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.core.text import escape_controls, text_table
from rp2k_lab.dataset.photo_index import Index, build_index, listed_part
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_evaluation, record_origin
from rp2k_lab.evaluation.console import closing_table, fraction_cell
from rp2k_lab.evaluation.evaluator import Evaluator
from rp2k_lab.evaluation.metric_registry import Predictions, Score, fraction
from rp2k_lab.evaluation.open_set import accepted_at, auroc, calibration_error, known_columns
from rp2k_lab.evaluation.predictor import Answers, Member, Predictor, classifier_of
from rp2k_lab.model.extended_classifier import ExtendedClassifier
from rp2k_lab.task.record import open_tracker, print_closing_lines
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.tracking.trial_client import Trial
from rp2k_lab.train.build import batches_for, build_evaluators, build_views
from rp2k_lab.train.trained_models import check_classes, check_held_out, load_members, parents, with_classes_of

log = logging.getLogger(__name__)


def run(config: Config, folder: Path) -> float:
    """Evaluate and record; return the first split's top-1.

    Args:
        config: the earlier run's restored configuration; another data set must have the same classes.
        folder: the run's folder, for tables and figures.

    Raises:
        RequestError: weights or classes do not fit, or the data set lacks a split.
        DataError: an image cannot be read.
    """
    task, trial = config.task, Trial.from_environment()
    target.set_up(config.device)
    data = build_index(config.dataset, with_unlisted=True)
    with StopSignal() as signals:
        runs, members = load_members([config])
        index = with_unlisted(data, runs[0], config.dataset.name)
        if "val" in task.split:
            check_held_out(config, runs)
        check_splits(config, listed_part(index), task.split)
        predictor = Predictor(members, config.batch_size, task.tta, check=signals.check)
        views = build_views(predictor, index, config.dataset.cache_gb)
        with open_tracker(config, trial.name or f"evaluate_{members[0].name}", folder) as tracker:
            record_origin(tracker, config, listed_part(index), folder)
            tracker.set_tags(trial.tags | parents(runs))
            trial.started(tracker.run_id, folder)
            scores, open_splits = {}, {}
            for split in task.split:
                rows = index.split(split)
                log.info("%d photos of %s, %s", len(rows), split, target.describe(config.device))
                answers = predictor.answers(
                    batches_for(predictor, views, rows["row"].tolist(), config, f"evaluating {split}")
                )
                evaluator = Evaluator(predictor, listed_part(index), split, lambda: ())
                scores[split] = record_listed(
                    tracker, evaluator, index, answers, config.dataset.catch_all_class, folder
                )
                if members[0].open_set is not None:
                    table = open_split(index, split, answers, members[0], task.reject)
                    open_splits[split] = record_open_split(tracker, table, split, folder)
    print(closing_table(scores))
    if open_splits:
        print(open_table(open_splits))
    print_closing_lines(tracker, folder)
    top1 = scores[task.split[0]]["top1"].value
    trial.finished(top1)
    return top1


def with_unlisted(data: Index, run: EarlierRun, dataset: str) -> Index:
    """Return the data set with the run's classes; images of other classes have the label -1 and count as unknown.

    Raises:
        RequestError: no class is the run's.
    """
    index = with_classes_of(data, run)
    unlisted = index.table["label"] < 0
    if unlisted.all():
        check_classes(data, run, dataset)
    if unlisted.any():
        names = sorted(data.table.loc[unlisted, "class"].unique())
        shown = ", ".join(map(escape_controls, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        log.warning("%d photos count as unknown: the run lacks %s", unlisted.sum(), shown)
    return index


def record_listed(
    tracker: MemoryTracker,
    evaluator: Evaluator,
    index: Index,
    answers: Answers,
    catch_all_class: str | None,
    folder: Path,
) -> dict[str, Score]:
    """Record the evaluation of a split's images whose class the run has, and return the scores.

    Args:
        evaluator: of the split, without other images.
        index: with the run's classes.
    """
    labels = index.split(evaluator.split)["label"].to_numpy(np.int32)
    listed = labels >= 0
    predictions = Predictions(labels[listed], answers.labels[listed], answers.probabilities[listed])
    return record_evaluation(tracker, evaluator, evaluator.score(predictions, catch_all_class), 0, folder)


def open_split(index: Index, split: str, answers: Answers, member: Member, reject: float) -> pd.DataFrame:
    """Return open_set.parquet: a row an image with what the threshold makes of it.

    Args:
        index: with the run's classes.
        member: has an open set.
        reject: fraction of known images that may be refused.
    """
    rows, names = index.split(split), np.array(index.classes, dtype=object)
    # Of a network that is no extension, the score is the calibrated probability of the answer.
    is_extended = isinstance(classifier_of(member.network), ExtendedClassifier)
    columns = {
        "path": rows["path"],
        "true": rows["class"],
        "listed": rows["label"] >= 0,
        "top1": names[answers.labels[:, 0]],
        "correct": answers.labels[:, 0] == rows["label"],
        "p1": answers.probabilities[:, 0] if is_extended else answers.scores,
    }
    return pd.DataFrame(columns | known_columns(answers.scores, member.open_set, reject))


def record_open_split(tracker: MemoryTracker, table: pd.DataFrame, split: str, folder: Path) -> dict[str, Score]:
    """Record `open_split` and its scores, and return them."""
    scores = open_scores(table)
    tracker.log_metrics({f"{split}/{name}": score.value for name, score in scores.items()}, 0)
    tracker.set_tags({f"{split}/{name}_count": score.count for name, score in scores.items()})
    file = folder / split / "open_set.parquet"
    table.to_parquet(file, index=False)
    tracker.log_artifact(file, split)
    return scores


def open_scores(table: pd.DataFrame) -> dict[str, Score]:
    """Return the open-set scores of images; those about unknown images only if there are any.

    Args:
        table: listed (of a class of the run), correct, known (bool), p1 (calibrated), score; see `open_split`.
    """
    listed, unlisted = table[table["listed"]], table[~table["listed"]]
    accepted = listed[listed["known"]]
    scores = {
        "known": fraction(len(accepted), len(listed)),
        "known_top1": fraction(accepted["correct"].sum(), len(accepted)),
        "calibration_error": calibration_error(listed["p1"].to_numpy(), listed["correct"].to_numpy()),
    }
    if len(unlisted):
        known, unknown = listed["score"].to_numpy(), unlisted["score"].to_numpy()
        scores |= {
            "unknown_accepted": fraction(unlisted["known"].sum(), len(unlisted)),
            "unknown_auroc": auroc(known, unknown),
            "unknown_fpr95": accepted_at(known, unknown),
            "open_set_top1": fraction(accepted["correct"].sum() + (~unlisted["known"]).sum(), len(table)),
        }
    return {name: score for name, score in scores.items() if score is not None}


_OPEN_LABELS = {
    "known": "called known",
    "known_top1": "top-1 of these",
    "calibration_error": "calibration error",
    "unknown_accepted": "unlisted called known",
    "unknown_auroc": "AUROC unknown",
    "unknown_fpr95": "FPR95 unknown",
    "open_set_top1": "open-set accuracy",
}


def open_table(scores: dict[str, dict[str, Score]]) -> str:
    """Return the open-set scores as text: a row a score, a column a split."""
    rows = [["", *scores]]
    for name, label in _OPEN_LABELS.items():
        if any(name in split for split in scores.values()):
            rows.append([label, *(fraction_cell(split.get(name)) for split in scores.values())])
    return "\n" + text_table(rows)


def required_evaluators(
    config: Config, index: Index, predictor: Predictor, splits: Iterable[str]
) -> dict[str, Evaluator]:
    """Return an evaluator for each of `splits`.

    Raises:
        RequestError: the data set lacks one.
    """
    check_splits(config, index, splits)
    views = build_views(predictor, index, config.dataset.cache_gb)
    return build_evaluators(config, index, views, predictor, splits)


def check_splits(config: Config, index: Index, splits: Iterable[str]) -> None:
    """Raise RequestError unless the data set has images of each of `splits`."""
    existing = set(index.table["split"])
    for split in splits:
        if split not in existing:
            names = ", ".join(name for name in ("train", "val", "test") if name in existing)
            way_out = f"use another data set or split (it has {names})"
            if config.task.name == "fixres" and split == "test":
                way_out = "add task.test=false"
            raise RequestError(f"task={config.task.name}: dataset={config.dataset.name} has no {split}\n{way_out}")
