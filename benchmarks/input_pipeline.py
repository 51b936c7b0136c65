"""Photos to batches: ours against MindSpore's native C++ pipeline, on the same files, side by side.

    python -m benchmarks.input_pipeline [--photos 512] [--size 224] [--rounds 9]

The photos are shaped like RP2K's (the published height/width histogram, 200–500 pixels, JPEG quality 92).  Native:
Decode, Resize (plain stretching: it has no letterbox), random flip, in C++ threads.  Ours: decode, letterbox, the same
flip; and with the whole training augmentation.  Decoding alone is the limit.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from benchmarks.timing import interleave, median_interval, ratio_line
from rp2k_lab.config import Cutout
from rp2k_lab.dataset.batches import TrainingBatches, TrainingView
from rp2k_lab.dataset.image import read_image

BATCH_SIZE = 64
# published.md: train images per bin of 0.5 of height/width, from 0.
RATIO_HISTOGRAM = (6038, 34883, 34232, 53289, 51898, 70720, 57306, 31690, 3802, 475)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=512)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = write_photos(Path(folder), options.photos)
        flip = {"name": "cutout", "length": 14, "crop": None, "flip": 0.5, "color": 0}
        full = flip | {"crop": [0.08, 1.0], "color": 0.4}
        parts = {
            "native, stretch": lambda: native(Path(folder), options.size),
            "ours, letterbox + cutout": lambda: ours(Path(folder), rows, options.size, flip),
            "ours, + crop + color": lambda: ours(Path(folder), rows, options.size, full),
            "decoding alone": lambda: decoding(Path(folder), rows),
        }
        for part in parts.values():
            part()  # warms the file cache and the thread pools
        speed = interleave(parts, options.rounds)
    print(f"{options.photos} photos to {options.size}×{options.size}, batches of {BATCH_SIZE}, {os.cpu_count()} cores")
    for name, values in speed.items():
        median, low, high = median_interval(values)
        print(f"  {name:26} {median:6.0f} images/s [{low:.0f}, {high:.0f}]")
    for name in list(speed)[1:3]:
        print("  " + ratio_line(f"{name} / native:", speed[name] / speed["native, stretch"]))
        print("  " + ratio_line(f"{name} / decoding alone:", speed[name] / speed["decoding alone"]))


def write_photos(folder: Path, count: int) -> pd.DataFrame:
    """Smooth noise with edges in RP2K's shapes; returns rows of path and label."""
    rng = np.random.default_rng(0)
    bins = rng.choice(len(RATIO_HISTOGRAM), count, p=np.array(RATIO_HISTOGRAM) / sum(RATIO_HISTOGRAM))
    (folder / "class").mkdir()  # MindSpore's ImageFolderDataset wants one
    paths = [f"class/{i}.jpg" for i in range(count)]
    for path, ratio in zip(paths, 0.5 * (bins + rng.uniform(0.1, 1, count)), strict=True):
        long_side = rng.integers(200, 501)
        height, width = (long_side, long_side / ratio) if ratio > 1 else (long_side * ratio, long_side)
        coarse = rng.integers(0, 256, (12, 12, 3), np.uint8)
        image = cv2.resize(coarse, (max(20, int(width)), max(20, int(height))), interpolation=cv2.INTER_CUBIC)
        cv2.putText(image, path, (5, image.shape[0] // 2), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 255), 3)
        cv2.imwrite(str(folder / path), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return pd.DataFrame({"path": paths, "label": np.zeros(count, np.int32)})


def ours(folder: Path, rows: pd.DataFrame, size: int, aug: dict) -> float:
    view = TrainingView((size, size), "letterbox", 1.0, Cutout(**aug), (0.5, 0.5, 0.5))
    batches = TrainingBatches(folder, rows, view, BATCH_SIZE, seed=0)
    started = time.perf_counter()
    images = sum(len(labels) for _, labels in batches)
    return images / (time.perf_counter() - started)


def native(folder: Path, size: int) -> float:
    from mindspore import dataset as ds
    from mindspore.dataset import vision

    ds.config.set_num_parallel_workers(os.cpu_count())
    source = ds.ImageFolderDataset(str(folder), shuffle=True)
    operations = [vision.Decode(), vision.Resize((size, size)), vision.RandomHorizontalFlip(0.5)]
    batched = source.map(operations, "image").batch(BATCH_SIZE, drop_remainder=True)
    started = time.perf_counter()
    images = sum(len(batch["image"]) for batch in batched.create_dict_iterator(num_epochs=1, output_numpy=True))
    return images / (time.perf_counter() - started)


def decoding(folder: Path, rows: pd.DataFrame) -> float:
    cv2.setNumThreads(1)
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        count = sum(1 for _ in pool.map(lambda path: read_image(folder / path).shape, rows["path"]))
    return count / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
