"""What `run.py -m` does after it has read its command, without the time that Hydra and MLflow take to load.

`part.py refill URL`: when a line comes in, open the database, which may be new, and fill the queue of a table.
`part.py work URL FOLDER`: a worker on the same table; its trials are stand-ins.
"""

import sys
from pathlib import Path

from rp2k_lab.ablation import Ablation
from rp2k_lab.sweep import process
from rp2k_lab.sweep.display import Display
from rp2k_lab.sweep.space import Table
from rp2k_lab.sweep.storage import exclusive, open_storage
from rp2k_lab.sweep.study import open_study, refill
from rp2k_lab.sweep.worker import Worker, missing

process.ENTRY = Path(__file__).with_name("standin.py")
levels = {name: {"overrides": [f"aug={name}"]} for name in ("none", "cutout", "mixup", "cutmix")}
ablation = Ablation(
    name="a", question="?", source="", metric="top1", baseline="none", levels=levels, seeds=[0], scales={"smoke": {}}
)
plan = Table(ablation, "smoke", (0,), ())
task, url, *folder = sys.argv[1:]
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
        with Display(study, plan, 4) as display:
            Worker(study, storage, plan, 4, [], Path(*folder), 2, link, lambda: None, display).work()
        sys.exit(missing(study, plan, 4))
