"""task=fixres: an earlier run's network brought to another test size by training its last layers alone.

Touvron et al., "Fixing the train-test resolution discrepancy", NeurIPS 2019, arXiv 1906.06423, section 4.2: the last
layers are trained on the training photos, at the new size and on what evaluation shows of them (resize, center crop, no
augmentation).  Which layers those are: `model.network.freeze_all_but_last`.

With `task.tune=classifier` all before the head's dropout is the same in every epoch: train and val pass it once.  The
maps before a norm are 49 times as large as what is pooled from them (at 224 pixels), so `classifier_bn` goes through
the whole network at each step.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.ablation.significance import Verdict, judge, paired_difference
from rp2k_lab.ablation.wording import gain_text
from rp2k_lab.config.schema import Config, NoAug
from rp2k_lab.core.disk import check_disk_space
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_evaluation, record_origin, record_training
from rp2k_lab.evaluation.console import top1_table
from rp2k_lab.evaluation.evaluator import Evaluation, Evaluator
from rp2k_lab.evaluation.metrics import Score
from rp2k_lab.evaluation.predictor import Predictor, Preprocessing
from rp2k_lab.task.evaluate import check_splits, required_evaluators
from rp2k_lab.task.train import open_tracker, print_where_to_look, required_space, train
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.tracking.trial_client import Trial
from rp2k_lab.train.build import release
from rp2k_lab.train.checkpoint import load_checkpoint
from rp2k_lab.train.head_tuning import HeadTuning, build_head_tuning
from rp2k_lab.train.resume import Start
from rp2k_lab.train.trained_models import check_classes, check_held_out, load_members, parents

SPLITS = ("val", "test")
AS_EVALUATED = NoAug(name="none", crop=None, flip=0.0, color=0.0)
_UNTUNED = ("old", "new")  # the size and the crop that the untuned network is shown


def run(config: Config, folder: Path) -> float:
    """Train the last layers, compare and record; returns the tuned network's top-1 on val.

    Args:
        config: the earlier run's, restored.  Its augmentation is not used.
        folder: the run's own folder, for checkpoints, tables and figures.

    Raises:
        RequestError: weights, classes or a size that do not fit, no val or test, a network without the norm that is to
            be trained, averaged weights, or no room for what it will save.
        DataError: a photo that cannot be read, or no room for the features.
    """
    trial = Trial.of_this_process()
    target.set_up(config.device)
    config = checked(config)
    index = build_index(config.dataset)
    with StopSignal() as signals:
        (earlier,), (member,) = load_members([config])
        check_classes(index, earlier, config.dataset.name)
        check_held_out(config, [earlier])
        check_splits(config, index, SPLITS)
        with build_head_tuning(config, index, member, SPLITS, folder, signals.check) as tuning:
            before = replace(member, preprocessing=recorded_preprocessing(earlier))
            check_disk_space(required_space(config, tuning.training, len(index.table), folder))
            predictor = Predictor([before], config.batch_size, check=signals.check)
            old = required_evaluators(config, index, predictor, SPLITS)
            with open_tracker(config, trial.name or f"fixres{config.size[0]}_{member.name}", folder) as tracker:
                record_origin(tracker, config, index, folder)
                tracker.set_tags(trial.tags | parents([earlier]))
                trial.started(tracker.run_id, folder)
                found, best = tune(config, tuning, old, tracker, signals, trial, folder)
                ways, gains = (before.preprocessing, member.preprocessing), gains_on_test(found["test"])
                scores = {split: [scores for _, _, scores in each] for split, each in found.items()}
                record_comparison(tracker, ways, scores, gains, tuning.training.steps, folder)
    print(fixres_table(names_of(*ways), scores, gains))
    print_where_to_look(tracker, folder, best)
    release(tuning.training)
    trial.finished(scores["val"][-1]["top1"].value)
    return scores["val"][-1]["top1"].value


def checked(config: Config) -> Config:
    """The configuration that is in force, and recorded: without augmentation.

    Raises:
        RequestError: averaged weights.
    """
    if config.optimizer.ema_decay is not None:
        raise RequestError(
            f"optimizer.ema_decay={config.optimizer.ema_decay:g}: task=fixres averages no weights\n"
            "add optimizer.ema_decay=null"
        )
    return config.model_copy(update={"aug": AS_EVALUATED})


def recorded_preprocessing(run: EarlierRun) -> Preprocessing:
    """How the run was evaluated itself."""
    height, width = np.broadcast_to(run.config["size"], 2).tolist()
    return Preprocessing((height, width), run.config["resize"], run.config["crop_ratio"])


def tune(
    config: Config,
    tuning: HeadTuning,
    old: dict[str, Evaluator],
    tracker: MemoryTracker,
    signals: StopSignal,
    trial: Trial,
    folder: Path,
) -> tuple[dict[str, list[Evaluation]], Path]:
    """Evaluate, train, evaluate again and record.

    Returns:
        (split to the untuned network's evaluations in the old way and the new, and the tuned one's; its checkpoint).
    """
    others, training = config.dataset.catch_all_class, tuning.training
    found = {
        split: [old[split].evaluate(others), evaluator.evaluate(others)]
        for split, evaluator in tuning.evaluators.items()
    }
    tuning.prepare()
    best = train(config, training, lambda: tuning.on_val.evaluate(others)[2], tracker, signals, trial, Start(folder))
    load_checkpoint(training.network, best)
    for split, evaluator in tuning.evaluators.items():
        found[split].append(evaluator.evaluate(others))
        record_evaluation(tracker, evaluator, found[split][-1], training.steps, folder)
    record_training(tracker, best, folder)
    return found, best


def gains_on_test(found: list[Evaluation]) -> list[Verdict]:
    """The last against each of the others; the intervals hold together, for these very networks on new photos."""
    correct = [predictions.top_labels[:, 0] == predictions.labels for predictions, _, _ in found]
    return judge([paired_difference(correct[-1][None], each[None]) for each in correct[:-1]])


def names_of(old: Preprocessing, new: Preprocessing) -> list[str]:
    """For the table's rows: what the three networks are and what they are shown."""
    return [f"{kind} at {way}" for kind, way in (("untuned", old), ("untuned", new), ("tuned", new))]


def record_comparison(
    tracker: MemoryTracker,
    ways: tuple[Preprocessing, Preprocessing],
    scores: dict[str, list[dict[str, Score]]],
    gains: list[Verdict],
    step: int,
    folder: Path,
) -> None:
    """fixres.csv, a row a network; the untuned ones' top-1 and the gains over them as metrics.

    Args:
        ways: the old preprocessing and the new one.
        scores: split to the scores of the untuned network in both ways and of the tuned one.
        gains: of the tuned one over the others, on test.
        step: training steps that the tuned one has seen.
    """
    shown, found = [*ways, ways[-1]], {}
    columns = {"network": ["untuned", "untuned", "tuned"]}
    columns |= {side: [way.size[i] for way in shown] for i, side in enumerate(("height", "width"))}
    columns |= {key: [getattr(way, key) for way in shown] for key in ("resize", "crop_ratio")}
    for split, each in scores.items():
        top1 = [s["top1"] for s in each]
        for column, part in (("top1", "value"), ("top1_low", "low"), ("top1_high", "high"), ("images", "count")):
            columns[f"{split}_{column}"] = [getattr(s, part) for s in top1]
        found |= {f"{split}/top1_untuned_{way}": s.value for way, s in zip(_UNTUNED, top1[:-1], strict=True)}
    values = [{"": gain.difference.value, "_low": gain.low, "_high": gain.high} for gain in gains]
    for part in ("", "_low", "_high"):
        columns[f"test_gain{part}"] = [*(value[part] for value in values), None]
        found |= {f"test/gain_over_{way}{part}": v[part] for way, v in zip(_UNTUNED, values, strict=True)}
    tracker.log_metrics(found, step)
    file = folder / "fixres.csv"
    pd.DataFrame(columns).to_csv(file, index=False)
    tracker.log_artifact(file)


def fixres_table(names: list[str], scores: dict[str, list[dict[str, Score]]], gains: list[Verdict]) -> str:
    """Top-1 of the untuned networks and, as the last, of the tuned one, and what it gains on test over each of them.

    Args:
        names: of the networks.
        scores: split to the scores of each of `names`.
        gains: of the tuned network over each of the others.
    """
    lines = [f"gain        {gain_text(gain)} over {name}" for name, gain in zip(names[:-1], gains, strict=True)]
    lines.append("            of these very networks: the spread between seeds is not in the intervals")
    return "\n".join([top1_table(names, scores), "", *lines])
