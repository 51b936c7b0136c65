"""Options of a data set, like a `conf/dataset` choice, for tests without a whole configuration."""

from pathlib import Path

from rp2k_lab.config.choices import defaults_of
from rp2k_lab.dataset.options import Source
from rp2k_lab.dataset.source.coco import Coco
from rp2k_lab.dataset.source.folder import Folder
from rp2k_lab.dataset.source.grocery_store import GroceryStore
from rp2k_lab.dataset.source.rp2k import Rp2k
from rp2k_lab.dataset.source.shelf import Shelf
from rp2k_lab.dataset.source.table import Table

_CLASSES = {"coco": Coco, "folder": Folder, "grocery_store": GroceryStore, "rp2k": Rp2k, "shelf": Shelf, "table": Table}


def options(name: str, **changes) -> Source:
    """Return the options of a data set: the defaults of its YAML file with some changes."""
    return _CLASSES[name].model_validate(defaults_of("dataset", name) | changes)


def dataset(root: Path, name: str = "rp2k", **changes) -> Source:
    """Return the options of a data set at `root`, with a val of 20 % and some changes."""
    return options(name, root=root, **{"val_fraction": 0.2} | changes)
