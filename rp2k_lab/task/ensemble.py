"""task=ensemble: the average of several earlier runs against the best of them.

All members see a photo in one pass: its file is read once, resized for each distinct preprocessing.  Predictions of
earlier passes are not used again: a run keeps five classes a photo, which make no average; all 2388 for RP2K's test
would be 186 MB a run and view in float16, stale as soon as weights, photos, size, crop or view differ, to save forward
passes over a ninth of the photos of one epoch.  The networks of a pass share reading and decoding instead.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.ablation.significance import Verdict, judge, paired_difference
from rp2k_lab.ablation.wording import gain_text
from rp2k_lab.config.schema import Config
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_evaluation, record_origin
from rp2k_lab.evaluation.console import top1_table
from rp2k_lab.evaluation.evaluator import Evaluation
from rp2k_lab.evaluation.metrics import Score
from rp2k_lab.evaluation.predictor import Predictor
from rp2k_lab.task.evaluate import required_evaluators
from rp2k_lab.task.train import open_tracker, print_where_to_look
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.tracking.trial_client import Trial
from rp2k_lab.train.trained_models import check_classes, check_held_out, load_members, parents

log = logging.getLogger(__name__)

SPLITS = ("val", "test")


def run(config: Config, folder: Path, *others: Config) -> float:
    """Evaluate members and average on val and test, and record; returns the average's top-1 on val.

    Args:
        config: the first run's, restored: its data set, batch size and device serve all.
        folder: the run's own folder, for tables and figures.
        others: those of the further runs: network and preprocessing are each run's own.

    Raises:
        RequestError: weights or classes that do not fit, or a data set without val or test.
        DataError: a photo that cannot be read.
    """
    task, trial = config.task, Trial.of_this_process()
    target.set_up(config.device)
    index = build_index(config.dataset)
    with StopSignal() as signals:
        runs, members = load_members([config, *others])
        check_classes(index, runs[0], config.dataset.name)
        check_held_out(config, runs)
        predictor = Predictor(members, config.batch_size, task.tta, task.average, signals.check)
        evaluators = required_evaluators(config, index, predictor, SPLITS)
        log.info("%d networks, tta %s, on %s", len(members), task.tta, target.describe(config.device))
        with open_tracker(config, trial.name or f"ensemble{len(members)}_{members[0].name}", folder) as tracker:
            record_origin(tracker, config, index, folder)
            tracker.set_tags(trial.tags | parents(runs))
            trial.started(tracker.run_id, folder)
            found = {
                split: [evaluator.judge(each, config.dataset.catch_all_class) for each in evaluator.predict_each()]
                for split, evaluator in evaluators.items()
            }
            for split, evaluator in evaluators.items():
                record_evaluation(tracker, evaluator, found[split][-1], 0, folder)
            best, gain = gain_over_best(found)
            seen = ", flip" if task.tta == "hflip" else ""  # every member is judged on the views that it adds
            names = [*(member.name + seen for member in members), f"average of {task.average}{seen}"]
            scores = {split: [scores for _, _, scores in each] for split, each in found.items()}
            record_members(tracker, names, [*(each.run_id for each in runs), None], scores, best, gain, folder)
    print(ensemble_table(names, scores, best, gain))
    print_where_to_look(tracker, folder)
    trial.finished(scores["val"][-1]["top1"].value)
    return scores["val"][-1]["top1"].value


def gain_over_best(found: dict[str, list[Evaluation]]) -> tuple[int, Verdict]:
    """(position of the member with the highest top-1 on val, the first of equals; the average against it on test).

    The interval is that of these very networks on new photos; what other seeds would give is not in it.

    Args:
        found: for val and test the evaluations of the members, and of their average as the last.
    """
    best = int(np.argmax([scores["top1"].value for _, _, scores in found["val"][:-1]]))
    correct = [predictions.top_labels[:, 0] == predictions.labels for predictions, _, _ in found["test"]]
    (verdict,) = judge([paired_difference(correct[-1][None], correct[best][None])])
    return best, verdict


def record_members(
    tracker: MemoryTracker,
    names: list[str],
    run_ids: list[str | None],
    scores: dict[str, list[dict[str, Score]]],
    best: int,
    gain: Verdict,
    folder: Path,
) -> None:
    """members.csv, a row a member and one for the average, and the gain as metrics and tags."""
    columns = {"name": names, "run_id": run_ids, "best_on_val": [i == best for i in range(len(names))]}
    for split, each in scores.items():
        for score in ("top1", "macro_top1"):
            found = [s[score] for s in each]
            columns |= {f"{split}_{score}": [s.value for s in found]}
            columns |= {f"{split}_{score}_{part}": [getattr(s, part) for s in found] for part in ("low", "high")}
        columns[f"{split}_images"] = [s["top1"].count for s in each]
    file = folder / "members.csv"
    pd.DataFrame(columns).to_csv(file, index=False)
    tracker.log_artifact(file)
    difference = gain.difference
    tracker.log_metrics({"test/gain": difference.value, "test/gain_low": gain.low, "test/gain_high": gain.high}, 0)
    tracker.set_tags({"best_member": names[best]})


def ensemble_table(names: list[str], scores: dict[str, list[dict[str, Score]]], best: int, gain: Verdict) -> str:
    """Top-1 of every member and of their average, and what the average gains on test over the member best on val.

    Args:
        names: of the members, and of the average as the last.
        scores: split to the scores of each of `names`.
        best: the position of that member.
        gain: the average against it.
    """
    return (
        f"{top1_table(names, scores)}\n\n"
        f"gain        {gain_text(gain)} over {names[best]}, the best member on val\n"
        "            of these very networks: the spread between seeds is not in the interval"
    )
