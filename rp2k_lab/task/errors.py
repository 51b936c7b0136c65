"""task=errors: what an earlier run gets wrong on a split, and why; of two runs, also what the second has changed."""

import logging
from pathlib import Path

import numpy as np

from rp2k_lab.analysis.analyze_run import Measured, analyze_run
from rp2k_lab.analysis.artifacts import (
    LABEL_ERRORS,
    explain_errors,
    record_label_issues,
    record_page,
    record_photo_score,
    record_tables,
)
from rp2k_lab.analysis.causes import causes_table
from rp2k_lab.analysis.compare import STATES, pair_table
from rp2k_lab.analysis.cross_validation import held_out_probabilities
from rp2k_lab.analysis.label_issue_score import label_lines
from rp2k_lab.analysis.photo_quality import measure_photos, usual_measures
from rp2k_lab.analysis.redraw_check import photo_score_lines
from rp2k_lab.analysis.thumbnails import Thumbnails
from rp2k_lab.config.schema import Config
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_origin
from rp2k_lab.task.evaluate import check_splits, print_where_to_look
from rp2k_lab.task.train import open_tracker
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.trained_models import check_classes, check_held_out, load_members, parents

log = logging.getLogger(__name__)


def run(config: Config, folder: Path, *others: Config) -> None:
    """Analyze and record; of two runs, the tables are the second's.

    Args:
        config: the first run's, restored: its data set, batch size and device serve both.
        folder: the run's own folder, for tables and the page.
        others: that of the second run: network and preprocessing are each run's own.

    Raises:
        RequestError: weights or classes that do not fit, or a split that the data set lacks.
        DataError: a photo that cannot be read, or no room for the features.
        StudyIncomplete: a fold failed.
    """
    split, folds = config.task.analyzed, config.task.folds
    target.set_up(config.device)
    index = build_index(config.dataset)
    with StopSignal() as signals:
        check = signals.check
        runs, members = load_members([config, *others])
        check_classes(index, runs[0], config.dataset.name)
        check_splits(config, index, [split])
        if split == "val":
            check_held_out(config, runs)
        with open_tracker(config, f"errors_{members[-1].name}", folder) as tracker:
            record_origin(tracker, config, index, folder)
            tracker.set_tags(parents(runs))
            held_out = hold_out(tracker, config, index, runs[0], folder, signals) if folds else None
            measured = measure(config, index, held_out, signals)
            found = [
                analyze_run(config, index, run, member, measured, held_out, check)
                for run, member in zip(runs, members, strict=True)
            ]
            tables, labels = found[-1].tables, found[-1].labels
            pairs = pair_table(*(each.tables.cases for each in found)) if len(found) == 2 else None
            record_tables(tracker, tables, pairs, split, folder)
            label_score = record_label_issues(tracker, index, measured.rows, labels, split, folder) if labels else None
            # Neither asks the folds' networks, whose errors those of train are.
            photo_score, heats, method = None, {}, ""
            if split != "train":
                photo_score = record_photo_score(tracker, config, index, members[-1], tables.cases, check, folder)
                heats, method = explain_errors(config, index, members[-1], tables.cases, pairs, check)
            page = record_page(
                tracker,
                index,
                tables,
                Thumbnails(index, heats, method, members[-1].preprocessing),
                {"run": runs[-1].name, "id": runs[-1].run_id or "", "split": split, "by": spoken_by(folds)},
                folder,
                pairs=pairs,
                label_score=label_score,
                photo_score=photo_score,
            )
    print(causes_table(tables.causes, tables.cases["correct"]))
    print(label_lines(labels, split, label_score, folder / LABEL_ERRORS))
    if photo_score is not None:
        print(photo_score_lines(photo_score))
    if pairs is not None:
        counts = pairs["state"].value_counts().to_dict()
        print(f"second run  {', '.join(f'{counts.get(state, 0)} errors {state}' for state in STATES)}")
    print(f"\npage        {page}", end="")
    print_where_to_look(tracker, folder)


def hold_out(
    tracker: MemoryTracker, config: Config, index: Index, run: EarlierRun, folder: Path, signals: StopSignal
) -> np.ndarray:
    """Probabilities of the training photos by networks that never saw them, float32 (photos, classes)."""
    held_out = held_out_probabilities(config, index, config.task.folds, run, folder, signals)
    tracker.set_tags({"folds": ",".join(held_out.run_ids)})
    return held_out.probabilities


def measure(config: Config, index: Index, held_out: np.ndarray | None, signals: StopSignal) -> Measured:
    """The split's photos and their measures; of train with folds, the photos that a fold left out."""
    split, workers = config.task.analyzed, config.device.num_threads
    rows = index.split(split)
    if held_out is not None and (alone := np.isnan(held_out[:, 0])).any():
        log.warning("%d photos are left out: each is the only one of its class, which every fold needs", alone.sum())
        rows = rows[~alone].reset_index(drop=True)
    log.info("%d photos of %s, %s", len(rows), split, target.describe(config.device))
    return Measured(
        rows,
        measure_photos(index.root, rows["path"].tolist(), workers, signals.check),
        usual_measures(index.root, index.split("train"), workers, signals.check),
    )


def spoken_by(folds: int | None) -> str:
    """Whose predictions the page is about."""
    return "the run's network" if folds is None else f"{folds} networks, each without its part of train"
