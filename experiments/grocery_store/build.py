"""Write tables of the Grocery Store photos that choose a recipe without its test list.

    python experiments/grocery_store/build.py <its folder dataset> <new folder>
    python experiments/grocery_store/build.py <its folder dataset> --groups <run>     # groups.csv again

val.csv has train, and the val list, which is another shop, as test.  folds.csv has train alone, of which each seed
draws another test.  Both have path (from the dataset's folder), label and group: photos of one crate are in one group,
which no draw divides.  groups.csv has the groups: photos of a class that a chain of near ones joins, near meaning a
cosine above 0.75 of their centered features, here of a frozen network with ImageNet weights.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse.csgraph import connected_components

from rp2k_lab import open_run
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.source.grocery_store import scan_lists

GROUPS = Path(__file__).with_name("groups.csv")
NEAR = 0.75


def main() -> None:
    makes_groups = sys.argv[2:3] == ["--groups"]
    if len(sys.argv) != 3 + makes_groups:
        sys.exit(__doc__)
    root, target = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        images = scan_lists(root).images
        train = {path for path, _, split in images if split == "train"}
        if makes_groups:
            groups = groups_of(sys.argv[3])
            check_paths(train, {path for path, _ in groups}, sys.argv[3])
            write(GROUPS, ("path", "group"), groups)
            return
        with GROUPS.open(encoding="utf-8", newline="") as file:
            groups = dict(list(csv.reader(file))[1:])
        check_paths(train, set(groups), str(GROUPS))
    except (DataError, RequestError) as error:
        sys.exit(str(error))
    if target.exists():
        sys.exit(f"{target}: exists already\nuse another name")
    target.mkdir(parents=True)
    listed = [(path, label, split, groups.get(path, "")) for path, label, split in images if split != "test"]
    trained = [(path, label, group) for path, label, split, group in listed if split == "train"]
    write(target / "folds.csv", ("path", "label", "group"), trained)
    both = [(path, label, "test" if split == "val" else split, group) for path, label, split, group in listed]
    write(target / "val.csv", ("path", "label", "split", "group"), both)


def check_paths(train: set[str], grouped: set[str], source: str) -> None:
    """Raise DataError unless these are the photos of train."""
    if train != grouped:
        missing, others = len(train - grouped), len(grouped - train)
        raise DataError(
            f"{source}: lacks {missing} of {len(train)} photos of train.txt, and has {others} others\n"
            "use the data set of docs/published.md, and a run that was trained on all of its train list"
        )


def groups_of(reference: str) -> list[tuple[str, str]]:
    """Return (path, group) of the training photos of a run."""
    features = open_run(reference).features("train")
    labels = open_run(reference).index.set_index("path").loc[features.index, "label"].to_numpy()
    vectors = features.to_numpy() - features.to_numpy().mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = (vectors @ vectors.T > NEAR) & (labels[:, None] == labels[None])
    numbers = connected_components(near, directed=False)[1]
    return [(path, f"g{number}") for path, number in zip(features.index, pd.factorize(numbers)[0], strict=True)]


def write(file: Path, names: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Write a table, and print its size."""
    with file.open("w", encoding="utf-8", newline="") as target:
        csv.writer(target, lineterminator="\n").writerows([names, *rows])
    print(f"{file}: {len(rows)} photos")


if __name__ == "__main__":
    main()
