"""task=evaluate: evaluate an earlier run on any split, size, resize and crop, with test-time augmentation."""

import logging
from collections.abc import Iterable
from pathlib import Path

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_origin, record_split
from rp2k_lab.evaluation.console import closing_table
from rp2k_lab.evaluation.evaluator import Evaluator
from rp2k_lab.evaluation.predictor import Predictor
from rp2k_lab.task.train import open_tracker, print_closing_lines
from rp2k_lab.tracking.trial_client import Trial
from rp2k_lab.train.build import build_evaluators, build_views
from rp2k_lab.train.trained_models import check_classes, check_held_out, load_members, parents

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
    index = build_index(config.dataset)
    with StopSignal() as signals:
        runs, members = load_members([config])
        check_classes(index, runs[0], config.dataset.name)
        if "val" in task.split:
            check_held_out(config, runs)
        predictor = Predictor(members, config.batch_size, task.tta, check=signals.check)
        evaluators = required_evaluators(config, index, predictor, task.split)
        for split, evaluator in evaluators.items():
            log.info("%d photos of %s, %s", len(evaluator.rows), split, target.describe(config.device))
        with open_tracker(config, trial.name or f"evaluate_{members[0].name}", folder) as tracker:
            record_origin(tracker, config, index, folder)
            tracker.set_tags(trial.tags | parents(runs))
            trial.started(tracker.run_id, folder)
            scores = {
                split: record_split(tracker, evaluator, config.dataset.catch_all_class, 0, folder)
                for split, evaluator in evaluators.items()
            }
    print(closing_table(scores))
    print_closing_lines(tracker, folder)
    top1 = scores[task.split[0]]["top1"].value
    trial.finished(top1)
    return top1


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
            raise RequestError(
                f"task={config.task.name}: dataset={config.dataset.name} has no {split}\n"
                f"use another data set or split (it has {names})"
            )
