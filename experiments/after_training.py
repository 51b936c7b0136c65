"""Compare two backbones, FixRes of each, and the average of both over two views, on the embedded photos.

    python experiments/after_training.py [keys of the two trainings, e.g. epochs=2 dataset.train_images=2000]

Each step prints and runs a run.py command.  Arguments `tracking.…` apply to all steps.  In MLflow each run links to
the runs that it starts from.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from rp2k_lab.evaluation.console import top1_table  # noqa: E402
from rp2k_lab.evaluation.intervals import wilson_interval  # noqa: E402
from rp2k_lab.evaluation.metrics import Score  # noqa: E402
from rp2k_lab.tracking.mlflow_runs import RunStore  # noqa: E402

TRAININGS = {
    "ResNet-18": ["model=resnet18"],
    "SE-ResNeXt, half": ["model=seresnext50", "model.width_multiplier=0.5", "model.depth_multiplier=0.5"],
}
TRAINED_AS = ["crop_ratio=0.875"]  # FixRes corrects the size shift of the random crop
TUNED_AS = ["task=fixres", "size=40", "crop_ratio=1", "epochs=10"]
AVERAGED_AS = ["task=ensemble", "task.tta=hflip", "task.average=logits"]


def main() -> None:
    extra = sys.argv[1:]
    common = [override for override in extra if override.startswith("tracking.")]
    runs = {}
    for name, model in TRAININGS.items():
        runs[name] = run_command([*model, *TRAINED_AS, *extra])
    for name in TRAININGS:
        runs[f"{name}, FixRes"] = run_command([*TUNED_AS, f"runs={runs[name]}", *common])
    members = ",".join(runs[f"{name}, FixRes"] for name in TRAININGS)
    runs["average of both, FixRes, flip"] = run_command([*AVERAGED_AS, f"runs=[{members}]", *common])
    uri = next((override.partition("=")[2] for override in common if override.startswith("tracking.uri=")), None)
    store = RunStore(uri)
    infos = [store.get(run) for run in runs.values()]
    scores = {split: [{"top1": score_of(info, split)} for info in infos] for split in ("val", "test")}
    print(top1_table(list(runs), scores))
    print("\nintervals hold for these networks on new photos; other seeds give other networks")


def run_command(overrides: list[str]) -> str:
    """Run `run.py`, show its output, and return the id of its last run; exit with its exit code if it fails."""
    return run_commands(overrides)[-1]


def run_commands(overrides: list[str]) -> list[str]:
    """Run `run.py` as `run_command`, and return the ids of its runs: with `task.then` there are two."""
    print(f"\n$ python run.py {shlex.join(overrides)}", flush=True)
    process = subprocess.Popen([sys.executable, str(PROJECT / "run.py"), *overrides], stdout=subprocess.PIPE, text=True)
    ids = []
    for line in process.stdout:
        print(line, end="", flush=True)
        if match := re.match(r"(?:nothing to do: )?run +.*, id ([0-9a-f]{32})(?:, is \w+)?$", line):
            ids.append(match[1])
    if code := process.wait():
        sys.exit(code)
    return ids


def score_of(run, split: str) -> Score:
    """Return the top-1 of a recorded run with its count and Wilson interval."""
    top1, count = run.metrics[f"{split}/top1"], int(run.tags[f"{split}/count"])
    return Score(top1, count, *wilson_interval(round(top1 * count), count))


if __name__ == "__main__":
    main()
