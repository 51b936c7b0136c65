"""task=ensemble: average several earlier runs and compare with the best of them.

All members predict in one pass: each file is read once and resized for each distinct preprocessing.  Recorded
predictions are not reused: a run keeps five classes an image, too few for an average.  All 2388 classes of RP2K's test
split would take 186 MB a run and view (float16), and become invalid with any change of weights, images, size, crop or
view.  They would only save forward passes over a ninth of an epoch's images.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.ablation.significance import Verdict, judge_single_runs
from rp2k_lab.ablation.wording import gain_text
from rp2k_lab.config.schema import Config
from rp2k_lab.core.csv_files import write_csv
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.photo_index import build_index, listed_part
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_evaluation, record_origin
from rp2k_lab.evaluation.console import top1_table
from rp2k_lab.evaluation.evaluator import Evaluation
from rp2k_lab.evaluation.metrics import Score, units_of_single_runs
from rp2k_lab.evaluation.predictor import Predictor
from rp2k_lab.task.evaluate import required_evaluators
from rp2k_lab.task.record import open_tracker, print_closing_lines
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.tracking.trial_client import Trial
from rp2k_lab.train.trained_models import check_classes, check_held_out, load_members, parents, with_classes_of

log = logging.getLogger(__name__)

SPLITS = ("val", "test")


def run(config: Config, folder: Path, *more_configs: Config) -> float:
    """Evaluate members and average on val and test, and record; return the average's top-1 on val.

    Args:
        config: the first run's restored configuration; its data set, batch size and device serve all.
        folder: the run's folder, for tables and figures.
        more_configs: the other runs' configurations, for network and preprocessing.

    Raises:
        RequestError: weights or classes do not fit, or the data set lacks val or test.
        DataError: an image cannot be read.
    """
    task, trial = config.task, Trial.from_environment()
    target.set_up(config.device)
    index = build_index(config.dataset)
    with StopSignal() as signals:
        runs, members = load_members([config, *more_configs])
        check_classes(index, runs[0], config.dataset.name)
        index = listed_part(with_classes_of(index, runs[0])) if runs[0].extension else index
        check_held_out(config, runs)
        predictor = Predictor(members, config.batch_size, task.tta, task.average, signals.check)
        evaluators = required_evaluators(config, index, predictor, SPLITS)
        log.info("%d networks, tta %s, on %s", len(members), task.tta, target.describe(config.device))
        with open_tracker(config, trial.name or f"ensemble{len(members)}_{members[0].name}", folder) as tracker:
            record_origin(tracker, config, index, folder)
            tracker.set_tags(trial.tags | parents(runs))
            trial.started(tracker.run_id, folder)
            evaluations = {
                split: [evaluator.score(each, config.dataset.catch_all_class) for each in evaluator.predict_each()]
                for split, evaluator in evaluators.items()
            }
            for split, evaluator in evaluators.items():
                record_evaluation(tracker, evaluator, evaluations[split][-1], 0, folder)
            best, gain = gain_over_best(evaluations, index.split("test"))
            views = ", flip" if task.tta == "hflip" else ""  # members and average use the same views
            names = [*(member.name + views for member in members), f"average of {task.average}{views}"]
            run_ids = [*(run.run_id for run in runs), None]
            scores = {split: [scores for _, _, scores in each] for split, each in evaluations.items()}
            record_members(tracker, list(zip(names, run_ids, strict=True)), scores, best, gain, folder)
    print(ensemble_table(names, scores, best, gain))
    print_closing_lines(tracker, folder)
    trial.finished(scores["val"][-1]["top1"].value)
    return scores["val"][-1]["top1"].value


def gain_over_best(evaluations: dict[str, list[Evaluation]], tested: pd.DataFrame) -> tuple[int, Verdict]:
    """Return (position of the first member with the highest top-1 on val, gain of the average over it on test).

    The interval covers new images, not new seeds.

    Args:
        evaluations: for val and test, those of the members, then of their average.
        tested: the photos of test, from `Index.split`; those of a group count as one.
    """
    best = int(np.argmax([scores["top1"].value for _, _, scores in evaluations["val"][:-1]]))
    correct = [predictions.top_labels[:, 0] == predictions.labels for predictions, _, _ in evaluations["test"]]
    (verdict,) = judge_single_runs([correct[best], correct[-1]], [(1, 0)], clusters=units_of_single_runs(tested))
    return best, verdict


def record_members(
    tracker: MemoryTracker,
    members: Sequence[tuple[str, str | None]],
    scores: dict[str, list[dict[str, Score]]],
    best: int,
    gain: Verdict,
    folder: Path,
) -> None:
    """Record members.csv (a row a member, then the average), the gain (metrics) and the best member (tag).

    Args:
        members: names and run ids; of the average, None.
        scores: split to the scores of `members`.
        best: position of the best member.
        gain: the average's gain over it.
    """
    names, run_ids = map(list, zip(*members, strict=True))
    columns = {"name": names, "run_id": run_ids, "best_on_val": [i == best for i in range(len(names))]}
    for split, each in scores.items():
        for score in ("top1", "macro_top1"):
            values = [s[score] for s in each]
            columns |= {f"{split}_{score}": [s.value for s in values]}
            columns |= {f"{split}_{score}_{part}": [getattr(s, part) for s in values] for part in ("low", "high")}
        columns[f"{split}_images"] = [s["top1"].count for s in each]
    file = folder / "members.csv"
    write_csv(pd.DataFrame(columns), file)
    tracker.log_artifact(file)
    tracker.log_metrics({"test/gain": gain.value, "test/gain_low": gain.low, "test/gain_high": gain.high}, 0)
    tracker.set_tags({"best_member": names[best]})


def ensemble_table(names: list[str], scores: dict[str, list[dict[str, Score]]], best: int, gain: Verdict) -> str:
    """Return as text the top-1 of members and average, and the average's gain on test over the best member on val.

    Args:
        names: the members, then the average.
        scores: split to the scores of `names`.
        best: position of the best member.
        gain: the average's gain over it.
    """
    return (
        f"{top1_table(names, scores)}\n\n"
        f"gain        {gain_text(gain)} over {escape_controls(names[best])}, the best member on val\n"
        "            for these networks: the spread between seeds is not in the interval"
    )
