"""Compare rp2k-lab's input pipeline with MindSpore's C++ pipeline and torchvision, interleaved on the same files.

    python -m benchmarks.input_pipeline [--photos 2048] [--size 224] [--rounds 9]

The images are shaped like RP2K's (the published height/width histogram, 200–500 pixels, JPEG quality 92).
rp2k-lab: decode, letterbox to 8/7 of the size, random crop, flip, Cutout (the published order), from files and from
the cache.  Native: Decode, Resize (plain stretching: it has no letterbox), flip, in C++ threads.  torchvision: the same
in two worker processes.  Decoding alone is the upper limit for any pipeline from files.  All produce uint8 batches.
"""

import argparse
import importlib.util
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd

from benchmarks.timing import interleave, median_interval, ratio_line
from rp2k_lab.aug.augmentation import Augmentation
from rp2k_lab.aug.color import ColorJitter
from rp2k_lab.aug.erase.cutout import Cutout
from rp2k_lab.aug.geometry import HorizontalFlip, RandomResizedCrop
from rp2k_lab.dataset.image import resized_size
from rp2k_lab.dataset.image_cache import ImageCache
from rp2k_lab.dataset.loader import ResizedImages, TrainingBatches
from rp2k_lab.dataset.shelf.distributions import RATIO_COUNTS
from rp2k_lab.native import photos

BATCH_SIZE = 64
NATIVE, DECODING = "native, stretch", "decoding alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=2048)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, size = Path(scratch), (options.size, options.size)
        rows = write_images(folder / "images", options.photos)
        resized = resized_size(size, 0.875)
        cache = ImageCache(folder / "cache", len(rows), resized, len(rows))
        index = SimpleNamespace(root=folder / "images", table=rows)
        uncached, cached = (ResizedImages(index, resized, "letterbox", each) for each in (None, cache))
        parts = {
            NATIVE: lambda: native(folder / "images", options.size),
            "rp2k-lab, crop, flip, Cutout": lambda: training_loader(uncached, rows, size),
            "rp2k-lab, with color jitter": lambda: training_loader(uncached, rows, size, ColorJitter(0.4)),
            "rp2k-lab, from the cache": lambda: training_loader(cached, rows, size),
            DECODING: lambda: decoding(folder / "images", rows),
        }
        # A separate process, since importing torch slows the threads of a process.
        with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as other:
            if importlib.util.find_spec("torchvision"):
                arguments = torchvision, folder / "images", options.size
                parts["torchvision, 2 workers"] = lambda: other.submit(*arguments).result()
            else:
                print("torchvision is left out: install it with pip install -e '.[parity]'")
            for part in parts.values():
                part()  # warms the file cache and the thread pools, and fills the image cache
            speed = interleave(parts, options.rounds)
    print(f"{options.photos} photos to {options.size}×{options.size}, batches of {BATCH_SIZE}, {os.cpu_count()} cores")
    print(f"  rp2k-lab's native library: {'on' if photos.is_on() else 'off'}")
    for name, values in speed.items():
        median, low, high = median_interval(values)
        print(f"  {name:28} {median:6.0f} images/s [{low:.0f}, {high:.0f}]")
    for name in (name for name in speed if name.startswith("rp2k-lab")):
        for peer in (peer for peer in speed if not peer.startswith("rp2k-lab")):
            print("  " + ratio_line(f"{name} / {peer}:", speed[name] / speed[peer]))


def write_images(folder: Path, count: int) -> pd.DataFrame:
    """Write smooth noise with edges in RP2K's shapes; return rows of path, row and label."""
    rng = np.random.default_rng(0)
    bins = rng.choice(len(RATIO_COUNTS), count, p=np.array(RATIO_COUNTS) / sum(RATIO_COUNTS))
    (folder / "class").mkdir(parents=True)  # MindSpore and torchvision need a class folder
    paths = [f"class/{i}.jpg" for i in range(count)]
    for path, ratio in zip(paths, 0.5 * (bins + rng.uniform(0.1, 1, count)), strict=True):
        long_side = rng.integers(200, 501)
        height, width = (long_side, long_side / ratio) if ratio > 1 else (long_side * ratio, long_side)
        coarse = rng.integers(0, 256, (12, 12, 3), np.uint8)
        image = cv2.resize(coarse, (max(20, int(width)), max(20, int(height))), interpolation=cv2.INTER_CUBIC)
        cv2.putText(image, path, (5, image.shape[0] // 2), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 255), 3)
        cv2.imwrite(str(folder / path), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return pd.DataFrame({"path": paths, "row": range(count), "label": np.zeros(count, np.int32)})


def training_loader(source: ResizedImages, rows: pd.DataFrame, size: tuple[int, int], *color: ColorJitter) -> float:
    cutout = Cutout(max(1, round(14 * min(size) / 224)), (128, 128, 128))
    augmentation = Augmentation(RandomResizedCrop(size), (HorizontalFlip(), *color, cutout), None)
    batches = TrainingBatches(source, rows, augmentation, size, BATCH_SIZE, seed=0, num_classes=1)
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


def torchvision(folder: Path, size: int) -> float:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    steps = [transforms.Resize((size, size)), transforms.RandomHorizontalFlip(0.5), transforms.PILToTensor()]
    dataset = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=2, drop_last=True)
    iterator = iter(loader)
    next(iterator)  # starts the processes
    started = time.perf_counter()
    images = sum(len(labels) for _, labels in iterator)
    return images / (time.perf_counter() - started)


def decoding(folder: Path, rows: pd.DataFrame) -> float:
    cv2.setNumThreads(1)
    paths = [str(folder / path) for path in rows["path"]]
    chunks = [paths[start : start + BATCH_SIZE] for start in range(0, len(paths), BATCH_SIZE)]
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda chunk: [cv2.imread(path).shape for path in chunk], chunks))
    return len(paths) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
