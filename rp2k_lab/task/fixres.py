"""task=fixres: an earlier run's network brought to another test size by training its last layers alone.

Touvron et al., "Fixing the train-test resolution discrepancy", NeurIPS 2019, arXiv 1906.06423, section 4.2: the last
layers are trained on the training photos, at the new size and on what evaluation shows of them (resize, centre crop, no
augmentation).  Which layers those are: `model.network.freeze_all_but_last`.

With `task.tune=classifier` all before the head's dropout is the same in every epoch: train and val pass it once.  The
maps before a norm are 49 times as large as what is pooled from them (at 224 pixels), so `classifier_bn` goes through
the whole network at each step.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab import device
from rp2k_lab.build import release
from rp2k_lab.checkpoint import load_checkpoint
from rp2k_lab.comparison import Verdict, judge, paired_difference
from rp2k_lab.config import Config, NoAug
from rp2k_lab.dataset.index import build_index
from rp2k_lab.disk import check_room
from rp2k_lab.errors import RequestError
from rp2k_lab.evaluation import Evaluation, Evaluator
from rp2k_lab.interrupt import SignalWatch
from rp2k_lab.members import check_classes, check_held_out, load_members, parents
from rp2k_lab.metrics import Score
from rp2k_lab.prediction import Predictor, Preprocessing
from rp2k_lab.record import record_evaluation, record_origin, record_training
from rp2k_lab.report import fixres_table
from rp2k_lab.resume import Start
from rp2k_lab.runs import EarlierRun
from rp2k_lab.sweep.trial import Trial
from rp2k_lab.task.evaluate import check_splits, required_evaluators
from rp2k_lab.task.train import open_tracker, print_where_to_look, room_taken, train
from rp2k_lab.tracker import MemoryTracker
from rp2k_lab.tuning import Tuning, tuning_of

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
    device.set_up(config.device)
    config = checked(config)
    index = build_index(config.dataset)
    with SignalWatch() as signals:
        (earlier,), (member,) = load_members([config])
        check_classes(index, earlier, config.dataset.name)
        check_held_out(config, [earlier])
        check_splits(config, index, SPLITS)
        with tuning_of(config, index, member, SPLITS, folder, signals.check) as tuning:
            before = replace(member, preprocessing=recorded_preprocessing(earlier))
            check_room(room_taken(config, tuning.training, len(index.table), folder))
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
    tuning: Tuning,
    old: dict[str, Evaluator],
    tracker: MemoryTracker,
    signals: SignalWatch,
    trial: Trial,
    folder: Path,
) -> tuple[dict[str, list[Evaluation]], Path]:
    """Evaluate, train, evaluate again and record.

    Returns:
        (split to the untuned network's evaluations in the old way and the new, and the tuned one's; its checkpoint).
    """
    others, training = config.dataset.others, tuning.training
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
