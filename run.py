"""Entry point: compose the configuration, run one task, return its objective.  See `python run.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

from rp2k_lab.cli.app import main, run_task


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def hydra_main(composed: DictConfig) -> float | None:
    return run_task(composed)


if __name__ == "__main__":
    sys.exit(main(hydra_main))
