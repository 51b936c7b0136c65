"""task=fixres: adapt an earlier run's network to another test size by training its last layers.

Touvron et al., "Fixing the train-test resolution discrepancy", NeurIPS 2019, arXiv 1906.06423, section 4.2: train the
last layers on the training images at the new size, with evaluation's preprocessing (resize, center crop, no
augmentation).  `model.network.freeze_all_but_last` chooses the layers.

With `task.tune=classifier` everything before the head's dropout is constant: train and val pass it once.  The maps
before a norm are 49 times as large as the pooled features (at 224 pixels), so `classifier_bn` runs the whole network
at each step.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.ablation.significance import Verdict, judge_single_runs
from rp2k_lab.ablation.wording import gain_text
from rp2k_lab.config.choices import defaults_of
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.csv_files import write_csv
from rp2k_lab.core.disk import check_disk_space
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_evaluation, record_open_set, record_origin, record_training
from rp2k_lab.evaluation.console import top1_table
from rp2k_lab.evaluation.evaluator import Evaluation, Evaluator
from rp2k_lab.evaluation.metrics import Score, units_of_single_runs
from rp2k_lab.evaluation.predictor import Predictor, Preprocessing
from rp2k_lab.task.evaluate import check_splits, required_evaluators
from rp2k_lab.task.record import open_tracker, print_closing_lines
from rp2k_lab.task.training import Control, best_weights_alone, required_space, train
from rp2k_lab.tracking.mlflow_runs import CLOSING
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.tracking.trial_client import Trial
from rp2k_lab.train.build import build_views, measure_open_set, release
from rp2k_lab.train.checkpoint import load_checkpoint
from rp2k_lab.train.head_tuning import HeadTuning, build_head_tuning
from rp2k_lab.train.resume import Start
from rp2k_lab.train.trained_models import check_classes, check_held_out, load_members, parents

_UNTUNED = ("old", "new")  # preprocessings of the untuned network


def run(config: Config, folder: Path) -> float:
    """Train the last layers, compare and record; return the tuned network's top-1 on val.

    Args:
        config: the earlier run's restored configuration; its augmentation is not used.
        folder: the run's folder, for checkpoints, tables and figures.

    Raises:
        RequestError: weights, classes or size do not fit, the data set lacks val or, with `task.test`, test, the
            network lacks the norm to train, averaged weights, or too little space for the run.
        DataError: an image cannot be read, or the disk has no space for the features.
    """
    trial = Trial.from_environment()
    target.set_up(config.device)
    config = without_augmentation(config)
    index = build_index(config.dataset)
    splits = config.task.closing_splits
    with StopSignal() as signals:
        (earlier,), (member,) = load_members([config])
        check_classes(index, earlier, config.dataset.name)
        check_held_out(config, [earlier])
        check_splits(config, index, splits)
        with build_head_tuning(config, index, member, splits, folder, signals.check) as tuning:
            before = replace(member, preprocessing=recorded_preprocessing(earlier))
            check_disk_space(required_space(config, tuning.training, len(index.table), folder))
            predictor = Predictor([before], config.batch_size, check=signals.check)
            old = required_evaluators(config, index, predictor, splits)
            name = trial.name or f"fixres{config.size[0]}_{member.name}"
            with best_weights_alone(config, folder), open_tracker(config, name, folder) as tracker:
                record_origin(tracker, config, index, folder)
                tracker.set_tags(trial.tags | parents([earlier]))
                trial.started(tracker.run_id, folder, config.epochs)
                evaluations, best = tune(config, tuning, old, Control(tracker, signals, trial), folder)
                preprocessings = before.preprocessing, member.preprocessing
                gains = gains_of_last(evaluations[splits[-1]], index.split(splits[-1]))
                scores = {split: [scores for _, _, scores in each] for split, each in evaluations.items()}
                record_comparison(tracker, preprocessings, scores, gains, tuning.training.steps, folder)
    print(fixres_table(row_names(*preprocessings), scores, gains))
    print_closing_lines(tracker, folder, best)
    release(tuning.training)
    trial.finished(scores["val"][-1]["top1"].value)
    return scores["val"][-1]["top1"].value


def without_augmentation(config: Config) -> Config:
    """Return the configuration to train and record: `config` without augmentation.

    Raises:
        RequestError: averaged weights.
    """
    if config.optimizer.ema_decay is not None:
        raise RequestError(
            f"optimizer.ema_decay={config.optimizer.ema_decay:g}: task=fixres averages no weights\n"
            "add optimizer.ema_decay=null"
        )
    nothing = defaults_of("aug", "none") | {"crop": None, "flip": 0.0, "color": 0.0}
    return parse(config.model_dump() | {"aug": nothing})


def recorded_preprocessing(run: EarlierRun) -> Preprocessing:
    """Return the preprocessing of the run's own evaluation."""
    height, width = np.broadcast_to(run.config["size"], 2).tolist()
    return Preprocessing((height, width), run.config["resize"], run.config["crop_ratio"])


def tune(
    config: Config, tuning: HeadTuning, old: dict[str, Evaluator], control: Control, folder: Path
) -> tuple[dict[str, list[Evaluation]], Path]:
    """Evaluate, train, evaluate again and record.

    Returns:
        (split to the evaluations: untuned with the old and the new preprocessing, tuned; the tuned checkpoint).
    """
    catch_all_class, training, tracker = config.dataset.catch_all_class, tuning.training, control.tracker
    evaluations = {
        split: [old[split].evaluate(catch_all_class), evaluator.evaluate(catch_all_class)]
        for split, evaluator in tuning.evaluators.items()
    }
    tuning.prepare()

    def evaluate() -> dict[str, Score]:
        return tuning.on_val.evaluate(catch_all_class)[2]

    best = train(config, training, evaluate, Start(folder), control)
    load_checkpoint(training.network, best)
    for split, evaluator in tuning.evaluators.items():
        evaluations[split].append(evaluator.evaluate(catch_all_class))
        record_evaluation(tracker, evaluator, evaluations[split][-1], training.steps, folder, CLOSING[split])
    on_val = tuning.evaluators["val"]
    views = build_views(on_val.predictor, on_val.index, config.dataset.cache_gb)
    record_open_set(tracker, measure_open_set(config, on_val.index, views, on_val.predictor), folder)
    record_training(tracker, best, folder)
    return evaluations, best


def gains_of_last(evaluations: list[Evaluation], images: pd.DataFrame) -> list[Verdict]:
    """Return the gains of the last over each other; the joint intervals cover new images, not new seeds.

    Args:
        images: of the split, from `Index.split`; those of a group count as one.
    """
    correct = [predictions.top_labels[:, 0] == predictions.labels for predictions, _, _ in evaluations]
    last = len(correct) - 1
    return judge_single_runs(correct, [(last, other) for other in range(last)], clusters=units_of_single_runs(images))


def row_names(old: Preprocessing, new: Preprocessing) -> list[str]:
    """Return the names of the table's rows: network and preprocessing."""
    return [f"{network} at {each}" for network, each in (("untuned", old), ("untuned", new), ("tuned", new))]


def record_comparison(
    tracker: MemoryTracker,
    preprocessings: tuple[Preprocessing, Preprocessing],
    scores: dict[str, list[dict[str, Score]]],
    gains: list[Verdict],
    step: int,
    folder: Path,
) -> None:
    """Record fixres.csv (a row a network), the untuned network's top-1 and the gains over it (metrics).

    Args:
        preprocessings: the old and the new one.
        scores: split to the scores of the untuned network with both, and of the tuned one.
        gains: of the tuned network over the others, on the last split.
        step: training steps of the tuned network.
    """
    rows, values = [*preprocessings, preprocessings[-1]], {}
    columns: dict[str, list] = {"network": ["untuned", "untuned", "tuned"]}
    columns |= {side: [row.size[i] for row in rows] for i, side in enumerate(("height", "width"))}
    columns |= {key: [getattr(row, key) for row in rows] for key in ("resize", "crop_ratio")}
    for split, each in scores.items():
        top1 = [s["top1"] for s in each]
        for column, part in (("top1", "value"), ("top1_low", "low"), ("top1_high", "high"), ("images", "count")):
            columns[f"{split}_{column}"] = [getattr(s, part) for s in top1]
        values |= {f"{split}/top1_untuned_{name}": s.value for name, s in zip(_UNTUNED, top1[:-1], strict=True)}
    split = list(scores)[-1]
    bounds = [{"": gain.value, "_low": gain.low, "_high": gain.high} for gain in gains]
    for part in ("", "_low", "_high"):
        columns[f"{split}_gain{part}"] = [*(each[part] for each in bounds), None]
        values |= {f"{split}/gain_over_{name}{part}": b[part] for name, b in zip(_UNTUNED, bounds, strict=True)}
    tracker.log_metrics(values, step)
    file = folder / "fixres.csv"
    write_csv(pd.DataFrame(columns), file)
    tracker.log_artifact(file)


def fixres_table(names: list[str], scores: dict[str, list[dict[str, Score]]], gains: list[Verdict]) -> str:
    """Return as text the top-1 of the networks, and the gains of the last (tuned) one over the others.

    Args:
        names: the networks.
        scores: split to the scores of `names`.
        gains: of the tuned network over each other.
    """
    split = list(scores)[-1]
    lines = [f"gain        {gain_text(gain, split)} over {name}" for name, gain in zip(names[:-1], gains, strict=True)]
    lines.append("            for these networks alone: not the spread between seeds")
    if split == "val":
        lines.append("            the tuned network's best epoch was chosen on these photos")
    return "\n".join([top1_table(names, scores), "", *lines])
