"""Time the index of RP2K's layout: a first start reads every header, a second one none.

    python -m benchmarks.index [--photos 5000 15000 50000] [--rounds 5]

The data has RP2K's 2388 classes, Chinese names and image shapes; each image is a link to one of 400 JPEGs.  The time is
linear in the number of images if the time per image is the same at the largest and smallest number.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from benchmarks.input_pipeline import write_images
from benchmarks.timing import interleave, median_interval, ratio_line
from rp2k_lab.config.choices import defaults_of
from rp2k_lab.dataset import photo_index
from rp2k_lab.dataset.source.rp2k import Rp2k

CLASSES, ORIGINALS = 2388, 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[5000, 15000, 50000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photo_index.DATA_FOLDER = folder / "data"
        write_images(folder / "originals", ORIGINALS)
        roots = {count: make_set(folder, count) for count in options.photos}
        parts = {
            (count, start): (lambda root=root, start=start: microseconds_per_image(root, start))
            for count, root in roots.items()
            for start in ("first", "second")
        }
        times = interleave(parts, options.rounds)
    print(f"{CLASSES} classes, {os.cpu_count()} cores")
    for (count, start), values in times.items():
        median, low, high = median_interval(values)
        print(f"  {count:7,} photos, {start:6} start {median * count / 1e6:6.2f} s, {median:6.1f} µs per photo", end="")
        print(f" [{low:.1f}, {high:.1f}]")
    least, most = min(roots), max(roots)
    for start in ("first", "second"):
        name = f"{start} start, time per photo, {most:,} / {least:,} photos:"
        print("  " + ratio_line(name, times[most, start] / times[least, start]))


def make_set(folder: Path, count: int) -> Path:
    """Create a data set of links to the originals; return its root."""
    root = folder / f"set{count}"
    classes = min(CLASSES, count // 2)
    for number in range(classes):
        (root / "train" / f"商品{number}（百香果230g）").mkdir(parents=True)
    for number in range(count):
        name = f"商品{number % classes}（百香果230g）/截屏{number:08}.jpg"
        os.link(folder / "originals" / "class" / f"{number % ORIGINALS}.jpg", root / "train" / name)
    return root


def microseconds_per_image(root: Path, start: str) -> float:
    """Return the time of building the index, with or without cached headers."""
    if start == "first":
        for file in (photo_index.DATA_FOLDER / "index").glob(f"{root.name}-*"):
            file.unlink()
    started = time.perf_counter()
    options = Rp2k.model_validate(defaults_of("dataset", "rp2k") | {"root": root})
    images = len(photo_index.build_index(options).table)
    return (time.perf_counter() - started) / images * 1e6


if __name__ == "__main__":
    main()
