"""Measure the savings of a pruned search over the full grid, and the overhead of a trial over the same command.

    python -m benchmarks.sweep [--rounds 6] [--dimensions KEY=A,B …] [--seeds 0,1,2] [overrides]
    python -m benchmarks.sweep --live       # searches as users run them: see live_search.py
    python -m benchmarks.sweep --table      # the table of the committed live searches

**Search.**  The grid runs once, every point with every seed.  Runs on CPU are bit-identical when repeated, so a pruned
trial is the start of the grid's run, and a search can be replayed exactly on the grid's curves: for every run seed and
many sampler seeds, with the sampler and the pruners of `hydra/sweeper=optuna`.  Output: the difference between the
grid's best mean over seeds and the mean of the point that a search selects, and the search's epochs as a fraction of
the grid's for one seed.

**Trial.**  `python run.py …` and the same run as a study's only trial alternate: the trial's time from start to end
minus the command's time (seconds).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from benchmarks import live_search
from benchmarks.timing import interleave, median_interval
from rp2k_lab import PROJECT
from rp2k_lab.sweep.space import confirmation_name, point_key
from rp2k_lab.sweep.storage import read_study
from rp2k_lab.sweep.study import PRUNERS, NonRepeatingSampler

# A grid of 42 runs takes about 20 minutes on two cores.
OVERRIDES = ["size=32", "epochs=6", "model.width_multiplier=0.25", "dataset.train_images=1000", "dataset.cache_gb=1"]
DIMENSIONS = [
    "aug=none,cutout,random_erasing,autoaugment,randaugment,mixup,cutmix",
    "model.final_width=512,1024",
]
REPLAYS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--dimensions", nargs="+", default=DIMENSIONS)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--live", action="store_true", help="run searches, write their curves, print their table")
    parser.add_argument("--table", action="store_true", help="print the table of the committed curves")
    parser.add_argument("--trials", type=int, default=20, help="of each live search")
    parser.add_argument("--folder", type=Path, default=PROJECT / "outputs" / "sweep_live", help="of the live searches")
    parser.add_argument("--curves", type=Path, default=live_search.CURVES, help="CSV file of the live searches")
    parser.add_argument("overrides", nargs="*", default=[])
    options = parser.parse_args()
    if options.live:
        options.folder.mkdir(parents=True, exist_ok=True)
        curves = live_search.live_searches(run_studies, options.trials, options.folder)
        curves.to_csv(options.curves, index=False, lineterminator="\n")
    if options.live or options.table:
        print(live_search.live_table(pd.read_csv(options.curves)))
        return
    overrides = [*OVERRIDES, *options.overrides]
    with tempfile.TemporaryDirectory() as folder:
        measure_search(options.dimensions, options.seeds, overrides, Path(folder))
        measure_trial(options.rounds, overrides, Path(folder))


def measure_search(dimensions: list[str], seeds: str, overrides: list[str], folder: Path) -> None:
    """Run the grid and replay searches on it."""
    trials = run_study("grid", [*dimensions, f"seed={seeds}"], overrides, folder, "hydra.sweeper.pruner=none")
    curves = defaultdict(dict)
    for trial in trials:
        params = dict(trial.params)
        seed = params.pop("seed", None)
        values = [trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)]
        curves[seed][tuple(params.items())] = [*values, trial.value]
    space = {k: d for k, d in trials[0].distributions.items() if k != "seed"}
    points = list(next(iter(curves.values())))
    means = {point: np.mean([curves[seed][point][-1] for seed in curves]) for point in points}
    best = max(means, key=means.get)
    epochs = len(next(iter(curves.values()))[best])
    print(f"grid of {len(points)} points × {len(curves)} seeds, {epochs} epochs each")
    print(f"  best mean val top-1 {100 * means[best]:.1f} % ({dict(best)}), worst {100 * min(means.values()):.1f} %")
    for pruner in PRUNERS:
        results = [replay(pruner, space, curves[seed], n) for seed in curves for n in range(REPLAYS)]
        gaps = [100 * (means[best] - means[point]) for point, _ in results]
        fractions = [used / (epochs * len(points)) for _, used in results]
        within = np.mean([gap <= 1 for gap in gaps])
        print(
            f"  {pruner}: {np.mean(gaps):.2f} points below the best on average, within 1 point in {100 * within:.0f} % "
            f"of {len(results)} searches; epochs {np.mean(fractions):.2f} of the grid's, at most {max(fractions):.2f}"
        )


def replay(
    pruner: str, space: dict[str, CategoricalDistribution], curves: dict[tuple, list[float]], seed: int
) -> tuple[tuple, int]:
    """Return (the point that a search over the whole grid selects, its epochs)."""
    sampler = NonRepeatingSampler(space, 1000 * seed)
    study = optuna.create_study(sampler=sampler, pruner=PRUNERS[pruner](), direction="maximize")
    used = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal used
        curve = curves[tuple((key, trial.suggest_categorical(key, d.choices)) for key, d in space.items())]
        trial.set_user_attr("point", point_key(trial.params))
        for epoch, top1 in enumerate(curve[:-1], 1):
            used += 1
            trial.report(top1, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        used += 1
        return curve[-1]

    study.optimize(objective, n_trials=len(curves))
    return tuple(study.best_params.items()), used


def measure_trial(rounds: int, overrides: list[str], folder: Path) -> None:
    """Time the command and the trial alternately."""
    quick = [*overrides, "epochs=1", "task.test=false"]

    def command() -> float:
        started = time.perf_counter()
        run([*quick, "seed=0", f"tracking.uri=sqlite:///{folder}/mlflow.db", f"hydra.run.dir={folder}/{started}"])
        return time.perf_counter() - started

    def trial() -> float:
        done = run_study(f"one{time.time_ns()}", ["seed=0,1"], quick, folder, "hydra.sweeper.n_trials=1")[0]
        return (done.datetime_complete - done.datetime_start).total_seconds()

    command()  # draws the shelf's images
    seconds = interleave({"command": command, "trial": trial}, rounds)
    value, low, high = median_interval(seconds["trial"] - seconds["command"])
    print(f"  command {np.median(seconds['command']):.1f} s, as a trial {np.median(seconds['trial']):.1f} s")
    print(f"  trial - command: {value:.3f} [{low:.3f}, {high:.3f}], n = {rounds} rounds")


def run_study(name: str, dimensions: list[str], overrides: list[str], folder: Path, *options: str) -> list[FrozenTrial]:
    """Run a search over `dimensions`, without confirmation, and return its trials."""
    return run_studies(name, dimensions, overrides, folder, "hydra.sweeper.confirm=0", *options)[name]


def run_studies(
    name: str, dimensions: list[str], overrides: list[str], folder: Path, *options: str
) -> dict[str, list[FrozenTrial]]:
    """Run a search over `dimensions` and its confirmation; return the trials of each of the two studies."""
    storage = f"sqlite:///{folder}/optuna.db"
    locations = [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"hydra.sweep.dir={folder}/{name}"]
    command = ["hydra/sweeper=optuna", f"hydra.sweeper.study={name}", f"hydra.sweeper.storage={storage}"]
    run(["-m", *command, "hydra.sweeper.n_trials=10000", *options, *locations, *overrides, *dimensions])
    trials = {}
    for study in (name, confirmation_name(name)):
        with read_study(storage, study) as opened:
            trials[study] = opened.get_trials() if opened else []
    return trials


def run(arguments: list[str]) -> None:
    subprocess.run([sys.executable, PROJECT / "run.py", *arguments], env=os.environ, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
