"""task=train: train, evaluate and record a network."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.loader import ImageViews, ResizedImages
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.device import msrun, target
from rp2k_lab.device.workers import Workers, join_workers
from rp2k_lab.evaluation.artifacts import record_evaluation, record_open_set, record_origin, record_training
from rp2k_lab.evaluation.console import closing_table
from rp2k_lab.evaluation.evaluator import Evaluation, Evaluator
from rp2k_lab.evaluation.metrics import Score
from rp2k_lab.evaluation.open_set import OpenSet
from rp2k_lab.evaluation.predictor import Member, Predictor
from rp2k_lab.task import finished_cell
from rp2k_lab.task.next_task import run_next
from rp2k_lab.task.record import open_tracker, print_closing_lines
from rp2k_lab.task.summary_page import record_summary
from rp2k_lab.task.training import Control, best_weights_alone, check_disk, train
from rp2k_lab.tracking.mlflow_runs import CLOSING, RunInfo
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.tracking.trial_client import Trial
from rp2k_lab.train.build import (
    MOST_CALIBRATING,
    Training,
    build_batches,
    build_evaluators,
    build_images,
    build_training,
    measure_open_set,
    preprocessing,
    release,
    with_normalization,
)
from rp2k_lab.train.checkpoint import load_checkpoint
from rp2k_lab.train.kept_outputs import KEPT_VIEWS, KeptOutputs, build_training_on_outputs
from rp2k_lab.train.resume import (
    Start,
    acquire_run_folder,
    check_photos,
    check_record,
    check_state,
    earlier_run,
    is_finished,
    with_recorded_normalization,
)
from rp2k_lab.train.trained_models import check_held_out, class_differences, load_members, parents
from rp2k_lab.train.verify import verify

log = logging.getLogger(__name__)


def run(config: Config, folder: Path, *teacher_configs: Config) -> float:
    """Train, evaluate and dump, or resume; return val top-1 of the best epoch.

    Args:
        config: the whole configuration.
        folder: a new run's folder, for checkpoints, tables and figures; only rank 0 writes.
        teacher_configs: see `rp2k_lab.tracking.run_restore.restore`.

    Raises:
        RequestError: the named run has an incomplete dump, is finished (resume), is unfinished (verify), or is being
            trained; or a trial has `task.then`.
        DataError: the photos are not those of the earlier run, or one cannot be read.
        NextTaskFailed: the task of `task.then` failed; the run itself is finished.
        NotReproduced: with `task.verify`, the metrics differ.
    """
    earlier = earlier_run(config)
    if earlier and is_finished(earlier) and config.task.resume == "auto":
        if msrun.is_rank_zero():
            check_photos(earlier, build_index(config.dataset))
        status = earlier.tags.get("status", earlier.status)
        print(f"nothing to do: run {escape_controls(earlier.name)}, id {earlier.run_id}, is {status}")
        top1 = earlier.closing("val", "top1")
        if msrun.is_rank_zero():
            run_next(config, earlier.run_id, Path(earlier.folder))
        return math.nan if top1 is None else top1
    if earlier:
        check_state(config, earlier)
    trial = Trial.from_environment()
    if trial.name and config.task.then:
        raise RequestError("task.then: no task follows the trials of a study\nadd task.then=null")
    target.set_up(config.device)
    if trial.reuse and not earlier and (cell := finished_cell.find(config, trial.reuse)):
        print(f"nothing to do: {escape_controls(cell.origin)} has this result")
        trial.replaced(cell.origin, cell.run_id, cell.place)
        trial.finished(cell.val_top1)
        return cell.val_top1
    workers = join_workers(config.device)
    teachers = load_members(teacher_configs) if teacher_configs else ([], [])
    with acquire_run_folder(config, None if config.task.verify else earlier, folder, workers) as start:
        top1, run_id = run_from(start, earlier, config, teachers, trial, workers)
    if workers.is_rank_zero and not config.task.verify:
        run_next(config, run_id, start.folder)
    return top1


@dataclass(frozen=True)
class Prepared:
    """What a run has before its first step.

    Attributes:
        config: with the normalization of the data set, or of the run to resume.
        kept: outputs of the frozen layers; None: the run trains on photos.
    """

    config: Config
    index: Index
    images: ResizedImages
    training: Training
    kept: KeptOutputs | None


def prepare(
    start: Start,
    earlier: RunInfo | None,
    config: Config,
    teachers: tuple[list[EarlierRun], list[Member]],
    workers: Workers,
) -> Prepared:
    """Read the data set and build the network; arguments as in `run_from`.

    Raises:
        RequestError: the data set or a teacher does not fit, or a disk lacks space.
        DataError: an image cannot be read.
    """
    index = build_index(config.dataset)
    if earlier:
        check_record(earlier, index)
        config = with_recorded_normalization(config, earlier)
    config = with_normalization(config, index)
    check_teachers(config, index, teachers[0])
    images = build_images(config, index)
    batches = build_batches(config, index, images, index.split("train"), workers, start.step)
    # A run that was trained without kept outputs is resumed and verified without.
    keeps = config.kept_views and (earlier is None or KEPT_VIEWS in earlier.tags)
    on_outputs = build_training_on_outputs(config, index, images, batches, start.step) if keeps else None
    networks = [member.network for member in teachers[1]]
    training, kept = on_outputs or (build_training(config, batches, workers, networks), None)
    training = replace(training, **evaluated_images(index, config.task.closing_splits))
    if workers.is_rank_zero:
        check_disk(config, training, images, start.folder)
    return Prepared(config, index, images, training, kept)


def run_from(
    start: Start,
    earlier: RunInfo | None,
    request: Config,
    teachers: tuple[list[EarlierRun], list[Member]],
    trial: Trial,
    workers: Workers,
) -> tuple[float, str]:
    """Train, evaluate and record from a start; return val top-1 of the best epoch, and the run's id.

    Args:
        earlier: the run to resume or verify.
        teachers: runs and their networks, for `loss.distillation`.
    """
    folder, prepared = start.folder, prepare(start, earlier, request, teachers, workers)
    config, index, training, kept = prepared.config, prepared.index, prepared.training, prepared.kept
    name, run_id = (start.run.name, start.run.run_id) if start.run else (trial.name, None)
    verified = earlier if config.task.verify else None
    if verified:
        name = f"verify_{verified.name}"
    with (
        best_weights_alone(config, folder, workers),
        workers.exit_together(),
        StopSignal() as signals,
        open_tracker(config, name, folder, workers, run_id) as tracker,
    ):
        control = Control(tracker, signals, trial, workers)
        member = Member(config.model.name, training.network, preprocessing(config))
        predictor, views = Predictor([member], config.batch_size, check=control.check), ImageViews([prepared.images])
        evaluators = build_evaluators(config, index, views, predictor, config.task.closing_splits, workers)
        announce(config, index, training)
        if workers.is_rank_zero and not start.run:
            record_origin(tracker, config, index, folder)
        kept_tag = {KEPT_VIEWS: config.kept_views} if kept else {}
        tags = kept_tag | start.tags(request, earlier) | (parents(teachers[0]) if teachers[0] else {})
        tracker.set_tags(trial.tags | {"workers": workers.world_size} | tags)
        tracker.deliver()  # from here on, task.resume=auto finds the run
        trial.started(tracker.run_id, folder, config.epochs)
        catch_all_class = config.dataset.catch_all_class
        on_val = kept.evaluator(member, control.check) if kept else evaluators["val"]

        def evaluate() -> dict[str, Score]:
            workers.average_batch_statistics(training.model.train_network)
            return on_val.evaluate(catch_all_class)[2]

        best = train(config, training, evaluate, start, control)
        if workers.is_rank_zero:
            load_checkpoint(training.network, best)
        workers.broadcast_parameters(training.network)
        evaluations = {split: evaluator.evaluate(catch_all_class) for split, evaluator in evaluators.items()}
        # On every rank, since the predictor asks all of them for signals.
        open_set = measure_open_set(config, index, views, predictor)
        if workers.is_rank_zero:
            record_results(tracker, evaluators, evaluations, open_set, best, folder)
    scores = {split: scores for split, (_, _, scores) in evaluations.items()}
    if workers.is_rank_zero:
        print(closing_table(scores))
        print_closing_lines(tracker, folder, best)
    release(training)
    if workers.is_rank_zero and verified:
        equal = verify(config.tracking.uri, verified, tracker.history, index.class_groups()[1])
        print(f"verified    {equal}")
    trial.finished(scores["val"]["top1"].value)
    return scores["val"]["top1"].value, tracker.run_id


def record_results(
    tracker: MemoryTracker,
    evaluators: Mapping[str, Evaluator],
    evaluations: Mapping[str, Evaluation],
    open_set: OpenSet,
    best: Path,
    folder: Path,
) -> None:
    """Record what the best epoch's weights give, by split, and the summary."""
    last_step = tracker.history["train/loss"][-1][0]  # early stopping leaves out steps
    for split, evaluator in evaluators.items():
        record_evaluation(tracker, evaluator, evaluations[split], last_step, folder, CLOSING[split])
    record_open_set(tracker, open_set, folder)
    record_training(tracker, best, folder)
    record_summary(tracker, evaluations, evaluators["val"].index, folder)


def evaluated_images(index: Index, splits: Sequence[str]) -> dict[str, int]:
    """Return val_images and closing_images of `Training`: the end also measures the open set on val."""
    counts = {split: len(index.split(split)) for split in splits}
    closing = sum(counts.values()) + min(MOST_CALIBRATING, counts["val"])
    return {"val_images": counts["val"], "closing_images": closing}


def check_teachers(config: Config, index: Index, teachers: Sequence[EarlierRun]) -> None:
    """Raise RequestError unless the teachers have the data set's classes; warn of one that may have seen val."""
    for run in teachers:
        if run.classes != tuple(index.classes):
            dataset = f"dataset={config.dataset.name}"
            differences = class_differences(index.classes, run.classes, dataset, "the teacher")
            raise RequestError(
                f"runs={run.reference}: a teacher with other classes than {dataset} ({differences})\n"
                "use a run that was trained on these classes"
            )
    if teachers:
        names = ", ".join(run.name for run in teachers)
        log.info("taught by %s, weight %g, temperature %g", names, config.loss.distillation, config.loss.temperature)
    check_held_out(config, teachers)


def announce(config: Config, index: Index, training: Training) -> None:
    """Log what is about to run."""
    counts = ", ".join(f"{n} {split}" for split, n in index.table["split"].value_counts().items())
    log.info("%s: %d classes, %s photos (%s)", config.dataset.title, len(index.classes), counts, index.root)
    log.info("groups: %s", index.class_groups()[1])
    parameters = sum(p.size for p in training.network.trainable_params())
    log.info("%s: %.1f M parameters on %s", config.model.name, parameters / 1e6, target.describe(config.device))
    log.info("%d epochs of %d steps; the first step compiles", config.epochs, training.batches.steps_per_epoch)
