"""task=errors: the errors of an earlier run on a split with their causes; for two runs, also what changed."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab import COMMAND
from rp2k_lab.analysis.analyze_run import Analysis, SplitMeasures, analyze_run
from rp2k_lab.analysis.artifacts import (
    LABEL_ERRORS,
    PAGE,
    explain_errors,
    record_label_issues,
    record_page,
    record_photo_score,
    record_tables,
)
from rp2k_lab.analysis.causes import format_causes
from rp2k_lab.analysis.compare import STATES, pair_table
from rp2k_lab.analysis.cross_validation import held_out_probabilities
from rp2k_lab.analysis.error_page import REVIEWED, Content, Review
from rp2k_lab.analysis.label_issue_score import format_label_issues
from rp2k_lab.analysis.label_issues import LabelIssues
from rp2k_lab.analysis.photo_quality import class_ranks, measure_images, measure_sample, typical_measures
from rp2k_lab.analysis.redraw_check import format_photo_score
from rp2k_lab.analysis.subject import Subject
from rp2k_lab.analysis.thumbnails import Thumbnails
from rp2k_lab.config.migrations import parse_record
from rp2k_lab.config.schema import Config
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.dataset.photo_index import Index, build_index, listed_part
from rp2k_lab.dataset.relabel import read_relabels
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_origin
from rp2k_lab.task.evaluate import check_splits
from rp2k_lab.task.record import open_tracker, print_closing_lines
from rp2k_lab.tracking.provenance import overrides_of
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.trained_models import check_classes, check_held_out, load_members, parents, with_classes_of

log = logging.getLogger(__name__)


def run(config: Config, folder: Path, *more_configs: Config) -> None:
    """Analyze and record; the tables are those of the last run.

    Args:
        config: the first run's restored configuration; its data set, batch size and device serve both.
        folder: the run's folder, for tables and the page.
        more_configs: the second run's configuration, for network and preprocessing.

    Raises:
        RequestError: weights or classes do not fit, or the data set lacks the split.
        DataError: an image cannot be read, or the disk has no space for the features.
        StudyIncomplete: a fold failed.
    """
    target.set_up(config.device)
    index = build_index(config.dataset)
    with StopSignal() as signals:
        runs, members = load_members([config, *more_configs])
        check_classes(index, runs[0], config.dataset.name)
        index = listed_part(with_classes_of(index, runs[0])) if runs[0].extension else index
        check_splits(config, index, [config.task.analyzed_split])
        if config.task.analyzed_split == "val":
            check_held_out(config, runs)
        with open_tracker(config, f"errors_{members[-1].name}", folder) as tracker:
            record_origin(tracker, config, index, folder)
            tracker.set_tags(parents(runs))
            held_out = hold_out(tracker, config, index, runs[0], folder, signals) if config.task.folds else None
            subjects = [Subject(config, index, *each, signals.check) for each in zip(runs, members, strict=True)]
            measured = measure(config, index, held_out, signals)
            analyses = [analyze_run(subject, measured, held_out) for subject in subjects]
            content = record(tracker, subjects[-1], measured.rows, analyses, folder)
    print_results(content, analyses[-1].labels, folder)
    print_closing_lines(tracker, folder)


def record(
    tracker: MemoryTracker, subject: Subject, rows: pd.DataFrame, analyses: Sequence[Analysis], folder: Path
) -> Content:
    """Write and record the tables and the page of the last analysis; return the page's content.

    Args:
        rows: of the index, that were analyzed.
        analyses: of one run, or of two.
    """
    run, split, labels = subject.run, subject.config.task.analyzed_split, analyses[-1].labels
    tables = analyses[-1].with_map()
    pairs = pair_table(*(each.tables.cases for each in analyses)) if len(analyses) == 2 else None
    record_tables(tracker, tables, pairs, split, folder)
    label_score = record_label_issues(tracker, subject.index, rows, labels, split, folder) if labels else None
    # Both use the run's network; errors on train are those of the folds' networks.
    photo_score, heats, method = None, {}, ""
    if split != "train":
        photo_score = record_photo_score(tracker, subject, tables.cases, folder)
        heats, method = explain_errors(subject, tables.cases, pairs)
    by = predictor_name(subject.config.task.folds)
    facts = {"run": run.name, "id": run.run_id or "", "split": split, "by": by}
    content = Content(facts, tables, review_of(subject.config, run, split), pairs, label_score, photo_score)
    record_page(tracker, content, Thumbnails(subject.index, heats, method, subject.member.preprocessing), folder)
    return content


def print_results(content: Content, labels: LabelIssues | None, folder: Path) -> None:
    """Print the causes, the suspected labels, and where to look at them."""
    print(format_causes(content.tables.causes, content.tables.cases["correct"]))
    print(format_label_issues(labels, content.review.split, content.label_score, folder / LABEL_ERRORS))
    if content.photo_score is not None:
        print(format_photo_score(content.photo_score))
    if content.pairs is not None:
        counts = content.pairs["state"].value_counts().to_dict()
        print(f"second run  {', '.join(f'{counts.get(state, 0)} errors {state}' for state in STATES)}")
    print(f"\npage        {folder / PAGE}", end="")
    if labels is not None and labels.suspected.any() and content.review.command:
        print("\nreview      decide on the page by keyboard, download the list, and train on it:")
        print(f"            {content.review.command}", end="")


def hold_out(
    tracker: MemoryTracker, config: Config, index: Index, run: EarlierRun, folder: Path, signals: StopSignal
) -> np.ndarray:
    """Return probabilities of the training images by networks that never saw them, float32 (images, classes)."""
    held_out = held_out_probabilities(config, index, config.task.folds, run, folder, signals)
    tracker.set_tags({"folds": ",".join(held_out.run_ids)})
    return held_out.probabilities


def measure(config: Config, index: Index, held_out: np.ndarray | None, signals: StopSignal) -> SplitMeasures:
    """Return the split's images and their measures; with folds, only the images that a fold held out."""
    split, num_threads = config.task.analyzed_split, config.device.num_threads
    rows = index.split(split)
    if held_out is not None and (alone := np.isnan(held_out[:, 0])).any():
        what = "each is alone" if "group" not in rows else "their group is alone"
        log.warning("%d photos are left out: %s in its class, and every fold needs its class", alone.sum(), what)
        rows = rows[~alone].reset_index(drop=True)
    log.info("%d photos of %s, %s", len(rows), split, target.describe(config.device))
    images = measure_images(index.root, rows["path"].tolist(), num_threads, signals.check)
    sample = measure_sample(index.root, index.split("train"), num_threads, signals.check)
    named = rows[["path", "class"]].reset_index(drop=True)
    named = named.assign(ratio=(rows["height"] / rows["width"]).to_numpy(np.float32), **images)
    return SplitMeasures(rows, images.assign(**class_ranks(named, sample)), typical_measures(sample))


def review_of(config: Config, run: EarlierRun, split: str) -> Review:
    """Return what the page's decisions about labels belong to, with the command that trains the run again on them.

    Args:
        config: of this task; its data set may have moved since the training.
    """
    key, overrides, list_ = f"{run.run_id or run.reference}/{split}", [], config.dataset.relabel
    if split != "train":
        return Review(key, split, "")
    if run.config["task"]["name"] == "train":
        training = parse_record({**run.config, "dataset": config.dataset.model_dump(mode="json")})
        overrides = [each for each in overrides_of(training) if not each.startswith("dataset.relabel=")]
    command = " ".join([COMMAND, *overrides, f"dataset.relabel=~/Downloads/{REVIEWED}"])
    return Review(key, split, command, list(read_relabels(list_).itertuples(index=False, name=None)) if list_ else ())


def predictor_name(folds: int | None) -> str:
    """Return the source of the page's predictions, for its head."""
    return "the run's network" if folds is None else f"{folds} networks, each without its part of train"
