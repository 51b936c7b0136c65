"""Options of a data set, like a `conf/dataset` choice, for tests without a whole configuration."""

from types import SimpleNamespace

_DEFAULTS = {
    "name": "rp2k",
    "val_fraction": 0.2,
    "val_seed": 0,
    "catch_all_class": "others",
    "drop_catch_all": False,
    "min_images_per_class": 1,
    "fraction": 1.0,
    "fraction_seed": 0,
    "fold": None,
    "relabel": None,
    "sampler": "uniform",
    "on_bad_image": "error",
    "cache_gb": 0,
}


def dataset(root, **changes) -> SimpleNamespace:
    """Return the options of a data set at `root`, with some changes."""
    return SimpleNamespace(root=root, **_DEFAULTS | changes)
