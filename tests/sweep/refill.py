"""`refill.py URL`: when a line comes in, open the database, which may be new, and fill the queue of a table."""

import sys

from rp2k_lab.ablation import Ablation
from rp2k_lab.sweep.space import Table
from rp2k_lab.sweep.storage import exclusive, open_storage
from rp2k_lab.sweep.study import open_study, refill

levels = {name: {"overrides": [f"aug={name}"]} for name in ("none", "cutout", "mixup", "cutmix")}
ablation = Ablation(
    name="a", question="?", source="", metric="top1", baseline="none", levels=levels, seeds=[0], scales={"smoke": {}}
)
plan = Table(ablation, "smoke", (0, 1, 2), ())
print("ready", flush=True)
sys.stdin.readline()
with open_storage(sys.argv[1], 1) as storage:
    with exclusive(storage, "a"):
        study = open_study(storage, plan, "a", "none", 0)
    with exclusive(storage, "a"):
        refill(study, plan, 0)
