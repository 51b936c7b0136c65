"""Write the training photos of Grocery Store as a table without splits, of which each seed draws another test.

    python experiments/grocery_store/build.py <its folder dataset> train.csv

train.csv has path (from that folder) and label.  The set's val list is another shop; its test list is not used.
"""

import csv
import sys
from pathlib import Path

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.source.grocery_store import scan_lists


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python experiments/grocery_store/build.py <folder dataset> <new .csv>")
    root, target = map(Path, sys.argv[1:])
    if target.exists():
        sys.exit(f"{target}: exists already\nuse another name")
    try:
        images = scan_lists(root).images
    except (DataError, RequestError) as error:
        sys.exit(str(error))
    rows = [(path, label) for path, label, split in images if split == "train"]
    with target.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    print(f"{target}: {len(rows)} photos of {len({label for _, label in rows})} classes")


if __name__ == "__main__":
    main()
