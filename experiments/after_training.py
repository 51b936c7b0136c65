"""Compare two backbones, FixRes of each, and the average of both over two views, on the embedded photos.

    python experiments/after_training.py [keys of the two trainings, e.g. epochs=2 dataset.train_images=2000]

Each step prints and runs a run.py command.  Arguments `tracking.…` apply to all steps.  In MLflow each run links to
the runs that it starts from.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from rp2k_lab.core.errors import DataError, RequestError  # noqa: E402
from rp2k_lab.evaluation.console import top1_table  # noqa: E402
from rp2k_lab.evaluation.intervals import wilson_interval  # noqa: E402
from rp2k_lab.evaluation.metrics import Score  # noqa: E402
from rp2k_lab.tracking.mlflow_runs import RunInfo, RunStore  # noqa: E402

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
    infos = recorded(runs.values(), extra)
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


def recorded(run_ids: Iterable[str], keys: Sequence[str]) -> list[RunInfo]:
    """Return the runs as the store of the keys has them.

    Raises:
        RequestError: the store lacks one.
    """
    parser = OverridesParser.create()
    uris = [parser.parse_override(key).value() for key in keys if key.startswith("tracking.uri=")]
    store = RunStore(uris[-1] if uris else None)
    runs = {run_id: store.get(run_id) for run_id in run_ids}
    if missing := [run_id for run_id, run in runs.items() if run is None]:
        raise RequestError(
            f"run {missing[0]}: not in the store\nupload it by `run.py task=sync`; use no tracking=offline"
        )
    return list(runs.values())


def same_photos(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the first of several runs' predictions.

    Raises:
        DataError: another one has other photos or labels, or another order.
    """
    first = tables[0]
    if not all(table[["path", "true"]].equals(first[["path", "true"]]) for table in tables):
        raise DataError("the runs were evaluated on different photos or labels\nremove the older runs, and start again")
    return first


def results_folder(name: str, keys: Sequence[str]) -> Path:
    """Return the folder of the committed results, or outputs/<name> if keys change what is measured."""
    places = ("tracking.", "dataset.root=", "dataset.table=")
    is_changed = any(not key.startswith(places) for key in keys)
    folder = PROJECT / ("outputs" if is_changed else "experiments") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_script(main: Callable[[], None]) -> None:
    """Call `main`; end with the message of an error that a user can mend."""
    try:
        main()
    except (DataError, RequestError) as error:
        sys.exit(str(error))


def score_of(run: RunInfo, split: str) -> Score:
    """Return the top-1 of a recorded run's best weights with its count and Wilson interval."""
    top1, count = run.closing(split, "top1"), int(run.tags[f"{split}/count"])
    return Score(top1, count, *wilson_interval(round(top1 * count), count))


if __name__ == "__main__":
    run_script(main)
