"""Write a run's best weights as safetensors, with all that evaluating them needs.

    python experiments/keep_weights.py RUN FOLDER

RUN is an id, a name or last, of an EfficientNet.  FOLDER gets model.safetensors, with the names of timm, beside
config.yaml, classes.txt and open_set.json.  experiments/grocery_store/weights/README.md has the commands that use it.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import after_training  # noqa: F401  puts the project on sys.path
import yaml
from safetensors.numpy import save_file

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
    """Write the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    source = run.checkpoint.parent.parent
    weights = {name.replace("fc.", "classifier."): array for name, array in read_weights(run.checkpoint).items()}
    save_file(weights, folder / "model.safetensors")
    config = run.config | {"dataset": run.config["dataset"] | {"root": None}}  # the photos' place on one machine
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    for name in (CLASSES, OPEN_SET):
        shutil.copy(source / name, folder / name)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    print(f"{run.name}: {size:.1f} MB in {folder}")


if __name__ == "__main__":
    main()
