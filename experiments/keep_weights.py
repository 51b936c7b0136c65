"""Write a run's best weights as safetensors, with all that evaluating them needs.

    python experiments/keep_weights.py RUN FOLDER

RUN is an id, a name or last, of an EfficientNet-Lite.  FOLDER gets model.safetensors, with the names of timm, beside
config.yaml, without the places of photos, lists and store, classes.txt and open_set.json.
experiments/grocery_store/weights/README.md has the commands that use it.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import yaml
from after_training import run_script  # also puts the project on sys.path
from safetensors.numpy import save_file

from rp2k_lab.config.migrations import parse_record
from rp2k_lab.core.errors import RequestError
from rp2k_lab.model.weights.pretrained import read_weights
from rp2k_lab.tracking.mlflow_runs import OPEN_SET
from rp2k_lab.tracking.run_files import CLASSES, CONFIG
from rp2k_lab.tracking.run_lookup import EarlierRun, find_run


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder = Path(sys.argv[2]).absolute()
    with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        keep(find_run(None, sys.argv[1], Path(downloads)), folder)


def keep(run: EarlierRun, folder: Path) -> None:
    """Write the folder.

    Raises:
        RequestError: the run is of another network, extended, or without scores of val.
    """
    source, model = run.checkpoint.parent.parent, run.config["model"]["name"]
    if not model.startswith("efficientnet_lite") or run.extension:
        what = "an extension" if run.extension else f"of {model}"
        raise RequestError(f"runs={run.reference}: {what}\nuse a trained run of an EfficientNet-Lite")
    if absent := [name for name in (CLASSES, OPEN_SET) if not (source / name).is_file()]:
        raise RequestError(f"runs={run.reference}: has no {absent[0]}\nuse a finished training")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name.replace("fc.", "classifier."): array for name, array in read_weights(run.checkpoint).items()}
    save_file(weights, folder / "model.safetensors")
    config = run.config | {"tracking": run.config["tracking"] | {"uri": None}}
    local = {*parse_record(run.config).dataset.file_keys, "relabel"}
    config["dataset"] = {key: None if key in local else value for key, value in run.config["dataset"].items()}
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    for name in (CLASSES, OPEN_SET):
        shutil.copy(source / name, folder / name)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    print(f"{run.name}: {size:.1f} MB in {folder}")


if __name__ == "__main__":
    run_script(main)
