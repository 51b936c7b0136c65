"""Build the GroZi-120 crops from a clone of github.com/dthiagarajan/grozi_tf, as `manifest.csv` lists them.

    git clone https://github.com/dthiagarajan/grozi_tf
    python experiments/grozi120/build.py grozi_tf grozi120

The folder gets `train/<product>/<photo>.jpg`, `test/…` and index.csv: path, label, split, product (1 to 120), upc,
order (place in the product's sequence), scene, width, height [pixels] and ratio (height / width).  The photos of the
clone are PNGs; they become JPEGs of quality 95 without chroma subsampling.
"""

import csv
import hashlib
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
COLUMNS = ("path", "label", "split", "product", "upc", "order", "scene", "width", "height", "ratio")
# SHA-256 of the RGB pixels of all source photos, in the order of the manifest: the clone has the photos of the results.
PIXELS = "0b27a4fc6c60acac77fb9c9d679ad1d199ef732733ef713e458319c4caa7d188"
# SHA-256 of all JPEGs, in the same order; Pillow with another JPEG encoder writes other bytes of the same sizes.
JPEGS = "1b1554f0c6be68663e0196e8c468dfd9a16f72424bc8a37335313e267a437219"


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python experiments/grozi120/build.py <clone of grozi_tf> <new folder>")
    photos, target = Path(sys.argv[1]) / "train_photos", Path(sys.argv[2])
    if not photos.is_dir():
        sys.exit(f"{photos}: there is no such folder\nuse a clone of github.com/dthiagarajan/grozi_tf")
    if target.exists():
        sys.exit(f"{target}: exists already\nuse a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{target.name}-", dir=target.parent) as part:
        same = build(photos, Path(part) / "built")
        (Path(part) / "built").rename(target)
    print(f"{target}: {same} as in the results")


def build(photos: Path, target: Path) -> str:
    """Write the photos and index.csv into a new folder, check them against the recorded digests; say what is equal."""
    upcs = {row["label"]: row["upc"] for row in read(HERE / "products.csv")}
    order, rows = orders(photos), []
    pixels, jpegs = hashlib.sha256(), hashlib.sha256()
    for row in read(HERE / "manifest.csv"):
        source = photos / row["path"]
        if not source.is_file():
            sys.exit(f"{source}: there is no such photo\nuse the commit that README.md names")
        with Image.open(source) as image:
            rgb = image.convert("RGB")
        path = f"{row['split']}/{row['label']}/{source.stem}.jpg"
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        rgb.save(target / path, "JPEG", quality=95, subsampling=0)
        pixels.update(rgb.tobytes())
        jpegs.update((target / path).read_bytes())
        product, ratio = int(source.parent.name) + 1, round(rgb.height / rgb.width, 3)
        facts = (product, upcs[row["label"]], order[row["path"]], row["scene"], rgb.width, rgb.height, ratio)
        rows.append((path, row["label"], row["split"], *facts))
    with (target / "index.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    if pixels.hexdigest() != PIXELS:
        sys.exit(f"{photos}: other photos than those of the results\nuse the commit that README.md names")
    same = "the same bytes" if jpegs.hexdigest() == JPEGS else "the same photos, in the bytes of another JPEG encoder,"
    return f"{len(rows):,} photos, {same}"


def read(file: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def orders(photos: Path) -> dict[str, int]:
    """Return the place of each photo in the sequence of its product, photos without a row in the manifest included."""
    numbers = defaultdict(list)
    for file in photos.glob("*/video*.png"):
        numbers[file.parent.name].append(int(re.sub(r"\D", "", file.stem)))
    return {
        f"{product}/video{number}.png": place
        for product, each in numbers.items()
        for place, number in enumerate(sorted(each))
    }


if __name__ == "__main__":
    main()
