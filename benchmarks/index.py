"""The index of RP2K's layout: a first start, which reads every header, and a second, which reads what changed.

    python -m benchmarks.index [--photos 5000 15000 50000] [--rounds 5]

A twin of the data set in number and names: 2388 classes with Chinese names, each photo a link to one of 400 JPEGs in
RP2K's shapes.  If the time a photo at the largest number is that at the smallest, the time is a straight line.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from benchmarks.input_pipeline import write_photos
from benchmarks.timing import interleave, median_interval, ratio_line
from rp2k_lab.dataset import photo_index

CLASSES, ORIGINALS = 2388, 400
OPTIONS = {
    "name": "rp2k",
    "val_fraction": 0.05, "val_seed": 0, "catch_all_class": None, "drop_catch_all": False, "min_images_per_class": 1,
    "fraction": 1.0, "on_bad_image": "error", "fold": None, "relabel": None,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[5000, 15000, 50000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photo_index.DATA_FOLDER = folder / "data"
        write_photos(folder / "originals", ORIGINALS)
        twins = {photos: make_twin(folder, photos) for photos in options.photos}
        parts = {
            (photos, start): (lambda root=root, start=start: microseconds_a_photo(root, start))
            for photos, root in twins.items()
            for start in ("first", "second")
        }
        spent = interleave(parts, options.rounds)
    print(f"{CLASSES} classes, {os.cpu_count()} cores")
    for (photos, start), values in spent.items():
        median, low, high = median_interval(values)
        print(f"  {photos:7,} photos, {start:6} start {median * photos / 1e6:6.2f} s, {median:6.1f} µs a photo", end="")
        print(f" [{low:.1f}, {high:.1f}]")
    least, most = min(twins), max(twins)
    for start in ("first", "second"):
        name = f"{start} start, a photo of {most:,} / a photo of {least:,}:"
        print("  " + ratio_line(name, spent[most, start] / spent[least, start]))


def make_twin(folder: Path, photos: int) -> Path:
    root = folder / f"twin{photos}"
    classes = min(CLASSES, photos // 2)
    for number in range(classes):
        (root / "train" / f"商品{number}（百香果230g）").mkdir(parents=True)
    for number in range(photos):
        name = f"商品{number % classes}（百香果230g）/截屏{number:08}.jpg"
        os.link(folder / "originals" / "class" / f"{number % ORIGINALS}.jpg", root / "train" / name)
    return root


def microseconds_a_photo(root: Path, start: str) -> float:
    if start == "first":
        for file in (photo_index.DATA_FOLDER / "index").glob(f"{root.name}-*"):
            file.unlink()
    started = time.perf_counter()
    photos = len(photo_index.build_index(SimpleNamespace(root=root, **OPTIONS)).table)
    return (time.perf_counter() - started) / photos * 1e6


if __name__ == "__main__":
    main()
