"""Searches with each pruner, run live with real trainings: their curves as a table.

`python -m benchmarks.sweep --live` runs them and writes sweep_live.csv, with a row for each value of a trial:

| column | meaning |
|---|---|
| pruner | of `hydra.sweeper.pruner` |
| part | search, or confirm: the best points again on fresh seeds |
| trial, state | number in its study; complete or pruned |
| one per dimension | the point |
| seed, epoch | of the value; a trial of several seeds reports one value per seed, after its last epoch |
| top1 | val top-1, 0 to 1; the last value of a run is its result, from its best epoch |
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from rp2k_lab.core.text import percent, text_table
from rp2k_lab.sweep.confirmation import mean_text
from rp2k_lab.sweep.seed_runs import read_seed_runs
from rp2k_lab.sweep.space import confirmation_name

CURVES = Path(__file__).with_name("sweep_live.csv")
EPOCHS, SEEDS = 4, (0, 1, 2)
# A run takes about 20 seconds on two busy cores.
OVERRIDES = [
    "size=32",
    f"epochs={EPOCHS}",
    "model.width_multiplier=0.25",
    "dataset.train_images=600",
    "dataset.cache_gb=1",
    "tracking=offline",
]
DIMENSIONS = ["optimizer.lr=tag(log,interval(0.005,0.2))", "aug=none,cutout,mixup", "batch_size=16,32"]
PRUNERS = {"none": [], "median": [], "wilcoxon": [f"hydra.sweeper.seeds=[{','.join(map(str, SEEDS))}]"]}
_POINT = [dimension.partition("=")[0] for dimension in DIMENSIONS]

# (name, dimensions, overrides, folder, *options) to the trials of each study that ended.
Run = Callable[..., dict[str, list[FrozenTrial]]]


def live_searches(run: Run, trials: int, folder: Path) -> pd.DataFrame:
    """Run a search of the same space with each pruner; return the curves.

    Interrupted, the same call with the same folder continues.

    Args:
        run: runs a study and its confirmation.
        trials: of each search.
    """
    rows = []
    for pruner, options in PRUNERS.items():
        name = f"live_{pruner}"
        options = [*options, f"hydra.sweeper.pruner={pruner}", f"hydra.sweeper.n_trials={trials}"]
        studies = run(name, DIMENSIONS, OVERRIDES, folder, *options)
        for part, study in (("search", name), ("confirm", confirmation_name(name))):
            facts = {"pruner": pruner, "part": part}
            rows += [facts | row for trial in studies[study] for row in _curve(trial)]
    return pd.DataFrame(rows)


def _curve(trial: FrozenTrial) -> list[dict]:
    """Return a row for each value of a trial; none of a trial that failed."""
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return []
    facts = {"trial": trial.number, "state": trial.state.name.lower(), **{key: trial.params[key] for key in _POINT}}
    if runs := read_seed_runs(trial):
        return [facts | {"seed": seed, "epoch": EPOCHS, "top1": run.top1} for seed, run in runs.items()]
    facts["seed"] = trial.params.get("seed", 0)
    values = dict(trial.intermediate_values)
    if trial.state == TrialState.COMPLETE:
        values[EPOCHS] = trial.value
    return [facts | {"epoch": epoch, "top1": top1} for epoch, top1 in sorted(values.items())]


def live_table(curves: pd.DataFrame) -> str:
    """Return what the searches cost and chose, as a table for a terminal.

    The fresh means are over other seeds than the search's: the difference to the value in the search is the luck that
    chose the point.
    """
    head = ("pruner", "trials", "pruned", "epochs", "its best point: in the search", "on fresh seeds", "confirmed best")
    rows = [head]
    for pruner in PRUNERS:
        searched, fresh = (curves[(curves["pruner"] == pruner) & (curves["part"] == p)] for p in ("search", "confirm"))
        if searched.empty:
            continue
        ends = searched.groupby(["trial", "seed"])["epoch"].max()
        states = searched.groupby("trial")["state"].first()
        results = searched[(searched["state"] == "complete") & (searched["epoch"] == EPOCHS)]
        values = results.groupby([*_POINT, "trial"])["top1"].mean().reset_index("trial")
        values = values.sort_values(["top1", "trial"], ascending=[False, True])["top1"]
        fresh = fresh[fresh["epoch"] == EPOCHS].groupby(_POINT)["top1"].apply(list)
        chosen = values.index[0]
        winner = max(fresh, key=lambda tops: sum(tops) / len(tops)) if len(fresh) else []
        rows.append(
            (
                pruner,
                str(len(states)),
                str((states == "pruned").sum()),
                str(ends.sum()),
                percent(values.iloc[0]),
                _mean(fresh.get(chosen, [])),
                _mean(winner),
            )
        )
    return text_table(rows, "<>")


def _mean(values: Sequence[float]) -> str:
    return mean_text(values) if len(values) else "–"
