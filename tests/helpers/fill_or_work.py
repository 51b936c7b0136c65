"""A worker of `run.py -m` without Hydra and MLflow, which load slowly.

`fill_or_work.py refill URL`: after a line of input, open the database (may be new) and fill the queue of a table.
`fill_or_work.py work URL FOLDER`: work on the same table with fake trials.
`fill_or_work.py search URL FOLDER`: work on a search of one point with three seeds.
"""

import sys
from pathlib import Path

from optuna.distributions import CategoricalDistribution

from rp2k_lab.config.ablation import Ablation, Scale
from rp2k_lab.sweep import trial_process
from rp2k_lab.sweep.progress import Display
from rp2k_lab.sweep.space import AblationGrid, Search
from rp2k_lab.sweep.storage import exclusive, open_storage
from rp2k_lab.sweep.study import open_study, refill
from rp2k_lab.sweep.worker import StudyWorker, missing

trial_process.ENTRY = Path(__file__).with_name("fake_run.py")
levels = {name: {"overrides": [f"aug={name}"]} for name in ("none", "cutout", "mixup", "cutmix")}
facts = {
    "name": "a",
    "question": "?",
    "source": "",
    "metric": "top1",
    "margin": 1.0,
    "baseline": "none",
    "overrides": [],
    "at": {},
}
ablation = Ablation(**facts, levels=levels, seeds=[0], baseline_seeds=None, rounds=[])
task, url, *folder = sys.argv[1:]
plan, n_trials = AblationGrid(ablation, Scale(name="smoke", settings={}), (0,), ()), 4
if task == "search":
    plan, n_trials = Search({"aug": CategoricalDistribution(["none", "cutout"])}, (), (0, 1, 2)), 1
print("ready", flush=True)
if task == "refill":
    sys.stdin.readline()
with open_storage(url, 1) as storage:
    with exclusive(storage, "a"):
        study = open_study(storage, plan, "a", "none", 0)
    if task == "refill":
        with exclusive(storage, "a"):
            refill(study, plan, 0)
    else:
        link = lambda trial, label: {"name": label, "tags": {"trial": trial.number}}  # noqa: E731
        with Display(study, plan, n_trials) as display:
            StudyWorker(study, storage, plan, n_trials, [], Path(*folder), 2, link, lambda: None, display).work()
        sys.exit(missing(study, plan, n_trials))
