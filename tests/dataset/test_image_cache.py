"""The image cache: filled once, then read, and never a wrong image, whatever happens to its files."""

import errno
import gc
import logging
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

import rp2k_lab.dataset.image_cache as module
from rp2k_lab import PROJECT
from rp2k_lab.aug.augmentation import Augmentation
from rp2k_lab.dataset.image import read_resized
from rp2k_lab.dataset.image_cache import ImageCache, open_cache
from rp2k_lab.dataset.loader import ResizedImages, TrainingBatches
from rp2k_lab.dataset.photo_index import build_index
from tests.helpers.dataset_options import dataset

COUNT, SHAPE = 6, (8, 9, 3)
BYTES = 8 * 9 * 3
PLAIN = Augmentation(None, (), None)


def image(slot: int, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(slot).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def filled(folder):
    """Return a cache that holds every image."""
    cache = ImageCache(folder, COUNT, SHAPE[:2], COUNT)
    for slot in range(COUNT):
        cache.put(slot, image(slot))
    return cache


def slots(cache, expected=image) -> list[int]:
    """Return the filled slots, and assert that each holds its image."""
    filled = []
    for slot in range(COUNT):
        cached = cache.get(slot)
        if cached is not None:
            np.testing.assert_array_equal(cached, expected(slot))
            filled.append(slot)
    return filled


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


class TestSlots:
    def test_are_empty_at_first(self, folder):
        cache = ImageCache(folder, COUNT, SHAPE[:2], COUNT)
        assert cache.filled == 0
        assert slots(cache) == []

    def test_are_read_back_and_persist(self, filled, folder, caplog):
        assert slots(filled) == list(range(COUNT))
        again = ImageCache(folder, COUNT, SHAPE[:2], COUNT)
        assert again.filled == COUNT
        assert slots(again) == list(range(COUNT))
        assert warnings(caplog) == []

    def test_return_new_arrays(self, filled):
        filled.get(2)[:] = 0
        assert slots(filled) == list(range(COUNT))

    @pytest.mark.parametrize("color", [0, 255])
    @pytest.mark.parametrize("shape", [(8, 9, 3), (7, 9, 3), (1, 1, 3)])
    def test_plain_images(self, folder, shape, color):
        """A black image's sum equals an empty slot's; a length that 8 does not divide has a remainder."""
        plain = np.full(shape, color, np.uint8)
        cache = ImageCache(folder, COUNT, shape[:2], COUNT)
        cache.put(3, plain)
        np.testing.assert_array_equal(cache.get(3), plain)
        assert cache.get(2) is None
        assert cache.get(4) is None

    def test_are_limited_by_the_capacity(self, folder):
        cache = ImageCache(folder, COUNT, SHAPE[:2], 4)
        for slot in range(COUNT):
            cache.put(slot, image(slot))
        assert slots(cache) == [0, 1, 2, 3]
        assert ImageCache(folder, COUNT, SHAPE[:2], COUNT).filled == 4

    def test_take_no_space_before_they_are_filled(self, folder):
        ImageCache(folder, 10**6, (64, 64), 10**6)
        assert sum(file.stat().st_blocks * 512 for file in folder.iterdir()) < 10**6

    def test_descriptors_are_closed(self, folder):
        before = psutil.Process().num_fds()
        for _ in range(20):
            ImageCache(folder, COUNT, SHAPE[:2], COUNT)
        gc.collect()
        assert psutil.Process().num_fds() <= before + 2


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "a bit of an image": (lambda f: flip(f / "photos", 2 * BYTES + 50), [2]),
    "the last byte of an image": (lambda f: flip(f / "photos", 3 * BYTES - 1), [2]),
    "a checksum": (lambda f: flip(f / "entries", 2 * 16 + 5), [2]),
    "an image of zeros": (lambda f: write_at(f / "photos", 2 * BYTES, bytes(BYTES)), [2]),
    "an image in another's slot": (lambda f: write_at(f / "photos", 2 * BYTES, image(4).tobytes()), [2]),
    "half an image of zeros": (lambda f: write_at(f / "photos", 2 * BYTES, bytes(BYTES // 2)), [2]),
    "all images zeros": (lambda f: write_at(f / "photos", 0, bytes(COUNT * BYTES)), list(range(COUNT))),
    "images cut off": (lambda f: os.truncate(f / "photos", 3 * BYTES + 7), [3, 4, 5]),
    "images emptied": (lambda f: os.truncate(f / "photos", 0), list(range(COUNT))),
}


def write_at(file, at, data):
    with open(file, "r+b") as opened:
        opened.seek(at)
        opened.write(data)


class TestDamage:
    @pytest.mark.parametrize("name", DAMAGE)
    def test_while_open_is_detected_reported_once_and_repaired(self, filled, folder, name, caplog):
        """Each image was read and correct before."""
        assert slots(filled) == list(range(COUNT))
        damage, lost = DAMAGE[name]
        damage(folder)
        assert slots(filled) == [slot for slot in range(COUNT) if slot not in lost]
        for slot in lost[::-1]:  # the last first, so that a hole of zeros lies in between
            filled.put(slot, image(slot))
            slots(filled)
        assert slots(filled) == list(range(COUNT))
        assert warnings(caplog) == [f"the cache {folder} holds damaged photos: decoding them again"]

    @pytest.mark.parametrize("name", DAMAGE)
    def test_before_opening_is_reported_and_repaired(self, filled, folder, name, caplog):
        damage, lost = DAMAGE[name]
        damage(folder)
        cache = ImageCache(folder, COUNT, SHAPE[:2], COUNT)
        stored = slots(cache)
        assert not set(stored) & set(lost)
        for slot in range(COUNT):
            cache.put(slot, image(slot))
        assert slots(cache) == list(range(COUNT))
        assert len(warnings(caplog)) == 1

    @pytest.mark.parametrize("name", ["photos", "entries"])
    @pytest.mark.parametrize("length", [None, 0, 5, 10**5])
    def test_files_of_another_length_are_replaced(self, filled, folder, name, length, caplog):
        if length is None:
            (folder / name).unlink()
        else:
            os.truncate(folder / name, length)
        cache = ImageCache(folder, COUNT, SHAPE[:2], COUNT)
        assert (cache.filled, slots(cache)) == (0, [])
        assert warnings(caplog) == [f"the cache {folder} is damaged: replaced by an empty one"]
        cache.put(1, image(1))
        assert slots(cache) == [1]

    @pytest.mark.parametrize(
        "size", [(9, 9), (8, 10), (7, 9), (9, 8), (0, 9), (8, 0), (2**31, 1), (2**32 - 1, 2**32 - 1)]
    )
    @pytest.mark.parametrize("plain", [False, True])
    def test_another_size_in_an_entry(self, folder, size, plain):
        """Zeros lie behind an image smaller than its slot, so the sum of the pixels alone would miss it."""
        kept = np.zeros(SHAPE, np.uint8) if plain else image(1)
        cache = ImageCache(folder, COUNT, (16, 16), COUNT)
        cache.put(1, kept)
        np.testing.assert_array_equal(cache.get(1), kept)
        write_at(folder / "entries", 16 + 8, struct.pack("<II", *size))
        assert cache.get(1) is None
        cache.put(1, kept)
        np.testing.assert_array_equal(cache.get(1), kept)

    def test_cut_off_entries_while_open(self, filled, folder):
        os.truncate(folder / "entries", 3 * 16)
        assert slots(filled) == [0, 1, 2]
        filled.put(5, image(5))
        assert slots(filled) == [0, 1, 2, 5]

    def test_deleted_while_open_still_works(self, filled, folder, caplog):
        shutil.rmtree(folder)
        filled.put(0, image(0))
        assert slots(filled) == list(range(COUNT))
        assert warnings(caplog) == []
        assert ImageCache(folder, COUNT, SHAPE[:2], COUNT).filled == 0

    def test_replaced_by_another_process_while_open(self, filled, folder):
        """The other process must not truncate a file that this one reads."""
        os.truncate(folder / "photos", 5)
        other = ImageCache(folder, COUNT, SHAPE[:2], COUNT)
        assert slots(filled) == []
        for cache, slot in ((filled, 2), (other, 3)):
            cache.put(slot, image(slot))
        assert slots(filled) == [2]
        assert slots(other) == [3]

    def test_an_unreadable_disk_is_damage(self, filled, monkeypatch, caplog):
        def fails(*_):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(module.os, "preadv", fails)
        assert slots(filled) == []
        assert len(warnings(caplog)) == 1


class TestFullDisk:
    @pytest.fixture
    def full_after(self, monkeypatch):
        """Return full_after(n, partly): the n-th write is the last to succeed; the next writes `partly` bytes."""

        def fill(writes, partly=None):
            write, done = os.pwrite, []

            def pwrite(descriptor, data, at):
                done.append(at)
                if len(done) <= writes:
                    return write(descriptor, data, at)
                if partly and len(done) == writes + 1:
                    return write(descriptor, bytes(data)[:partly], at)
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(module.os, "pwrite", pwrite)

        return fill

    @pytest.mark.parametrize(("writes", "partly", "stored"), [(4, None, [0, 1]), (5, None, [0, 1]), (4, 17, [0, 1])])
    def test_ends_the_filling_with_one_warning(self, folder, full_after, caplog, writes, partly, stored):
        full_after(writes, partly)
        cache = ImageCache(folder, COUNT, SHAPE[:2], COUNT)
        for slot in range(COUNT):
            cache.put(slot, image(slot))
        assert slots(cache) == stored
        assert warnings(caplog) == [f"the cache {folder} takes no more photos (No space left on device)"]

    def test_is_reported_once_by_many_threads(self, folder, monkeypatch, caplog):
        meet = threading.Barrier(8)

        def pwrite(*_):
            meet.wait(60)  # all have started before the first one fails
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(module.os, "pwrite", pwrite)
        cache = ImageCache(folder, COUNT, SHAPE[:2], COUNT)
        threads = [threading.Thread(target=cache.put, args=(0, image(0))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(warnings(caplog)) == 1

    @pytest.mark.slow
    def test_real_disk_of_64_kb(self, tmp_path, caplog):
        disk = tmp_path / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this user cannot mount a small disk")
        try:
            cache = ImageCache(disk / "cache", COUNT, (80, 80), COUNT)
            for slot in range(COUNT):
                cache.put(slot, image(slot, (80, 80, 3)))
            stored = slots(cache, lambda slot: image(slot, (80, 80, 3)))
            assert 0 < len(stored) < COUNT
            assert stored == list(range(len(stored)))
            assert len(warnings(caplog)) == 1
            del cache
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def root(tmp_path, write_photo):
    root = tmp_path / "set"
    for name in "ab":
        for i in range(12):
            write_photo(root / "train" / name / f"{i:02}.png", 30 + i, 40, seed=i)
    return root


@pytest.fixture
def index(root, data_folder, monkeypatch):
    monkeypatch.setattr(module, "DATA_FOLDER", data_folder)
    return build_index(dataset(root))


class TestOpen:
    SIZE = (32, 32)
    IMAGE_GB = 32 * 32 * 3 / 1e9

    def test_of_zero_gigabytes_is_none(self, index, data_folder):
        assert open_cache(index, self.SIZE, "letterbox", 0) is None
        assert not (data_folder / "cache").exists()

    def test_reports_its_size_and_content(self, index, data_folder, caplog):
        caplog.set_level("INFO")
        cache = open_cache(index, self.SIZE, "letterbox", 1)
        source = ResizedImages(index, self.SIZE, "letterbox", cache)
        for row in range(5):
            source(row)
        open_cache(index, self.SIZE, "letterbox", 1)
        first, second = (record.getMessage() for record in caplog.records)
        folder = cache.folder
        assert folder.parent == data_folder / "cache"
        assert first == f"cache: all of 24 photos at 32×32 in at most 74 kB, 0 cached already ({folder})"
        assert second == f"cache: all of 24 photos at 32×32 in at most 74 kB, 5 cached already ({folder})"

    def test_gigabytes_limit_the_capacity(self, index, caplog):
        caplog.set_level("INFO")
        cache = open_cache(index, self.SIZE, "letterbox", 7.5 * self.IMAGE_GB)
        source = ResizedImages(index, self.SIZE, "letterbox", cache)
        for row in range(24):
            source(row)
        again = open_cache(index, self.SIZE, "letterbox", 7.5 * self.IMAGE_GB)
        assert (again.filled, again.capacity) == (7, 7)
        assert "cache: the first 7 of 24 photos" in caplog.text

    def test_more_capacity_later_keeps_the_images(self, index):
        small = open_cache(index, self.SIZE, "letterbox", 7 * self.IMAGE_GB)
        source = ResizedImages(index, self.SIZE, "letterbox", small)
        for row in range(24):
            source(row)
        large = open_cache(index, self.SIZE, "letterbox", 1)
        assert (large.filled, large.capacity) == (7, 24)

    def test_free_disk_space_limits_the_capacity(self, index, monkeypatch, caplog):
        free = SimpleNamespace(free=module._RESERVE_BYTES + 5 * 32 * 32 * 3)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: free)
        assert open_cache(index, self.SIZE, "letterbox", 1).capacity == 5
        assert warnings(caplog) == ["cache: the disk has space for 5 photos only"]

    def test_that_cannot_be_created_is_none(self, index, data_folder, caplog):
        (data_folder / "cache").write_text("a file instead of a folder")
        assert open_cache(index, self.SIZE, "letterbox", 1) is None
        (message,) = warnings(caplog)
        assert message.startswith("no cache: ")
        assert message.endswith(" cannot be created (Not a directory)")

    @pytest.mark.parametrize(
        ("what", "change"),
        [("resize", {"resize": "stretch"}), ("height", {"size": (33, 32)}), ("width", {"size": (32, 33)})],
    )
    def test_another_shape_or_resize_is_another_cache(self, index, what, change):
        usual = {"size": self.SIZE, "resize": "letterbox", "cache_gb": 1}
        assert open_cache(index, **usual).folder == open_cache(index, **usual).folder
        assert open_cache(index, **usual | change).folder != open_cache(index, **usual).folder

    def test_another_decoder_is_another_cache(self, index, monkeypatch):
        before = open_cache(index, self.SIZE, "letterbox", 1).folder
        monkeypatch.setattr(module, "decoder_version", lambda: "next")
        assert open_cache(index, self.SIZE, "letterbox", 1).folder != before

    def test_a_touched_image_is_another_cache(self, index, root):
        before = open_cache(index, self.SIZE, "letterbox", 1).folder
        assert open_cache(build_index(dataset(root)), self.SIZE, "letterbox", 1).folder == before
        file = root / "train" / "a" / "03.png"
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
        assert open_cache(build_index(dataset(root)), self.SIZE, "letterbox", 1).folder != before

    def test_an_image_replaced_by_one_of_its_size_and_date_stays_cached(self, index, root):
        """A known limit: detecting it would need reading every file."""
        cache = open_cache(index, self.SIZE, "letterbox", 1)
        source = ResizedImages(index, self.SIZE, "letterbox", cache)
        before = source(3)
        file = index.root / index.table["path"][3]
        stat, data = file.stat(), file.read_bytes()
        file.write_bytes(bytes(reversed(data)))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        np.testing.assert_array_equal(source(3), before)


# Fill a cache repeatedly in a random order; print the number of images put once all are read back correctly.
FILLER = """
import sys
from pathlib import Path
import numpy as np
from rp2k_lab.dataset.image_cache import ImageCache
folder, seed, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
shape, count = (64, 64, 3), 300
image = lambda slot: np.random.default_rng(slot).integers(0, 256, shape, np.uint8)
images = [image(slot) for slot in range(count)]
print("ready", flush=True)
sys.stdin.readline()
cache = ImageCache(folder, count, shape[:2], count)
made = 0
for turn in range(rounds):
    for slot in np.random.default_rng([seed, turn]).permutation(count).tolist():
        cached = cache.get(slot)
        if cached is None:
            cache.put(slot, images[slot])
            made += 1
        else:
            assert (cached == images[slot]).all(), slot
        if turn == 0 and slot == 7:
            print("filling", flush=True)
print(made, flush=True)
"""


class TestProcesses:
    @pytest.fixture
    def filler(self, folder):
        """Return filler(seed, rounds): start a process that waits for a line before it opens the cache."""
        started = []

        def start(seed, rounds):
            command = [sys.executable, "-c", FILLER, str(folder), str(seed), str(rounds)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            process = subprocess.Popen(command, cwd=PROJECT, text=True, **pipes)
            started.append(process)
            return process

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def begin(self, *processes):
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()

    def stored(self, folder):
        cache = ImageCache(folder, 300, (64, 64), 300)
        right = 0
        for slot in range(300):
            cached = cache.get(slot)
            if cached is not None:
                np.testing.assert_array_equal(cached, image(slot, (64, 64, 3)))
                right += 1
        return right, cache.filled

    @pytest.mark.slow
    def test_two_may_fill_one_cache_at_once(self, folder, filler, caplog):
        both = [filler(seed, 3) for seed in (1, 2)]
        self.begin(*both)
        made = []
        for process in both:
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            assert err == ""  # no damage
            made.append(int(out.split()[-1]))
        assert sum(made) >= 300
        assert self.stored(folder) == (300, 300)
        assert warnings(caplog) == []

    @pytest.mark.slow
    def test_killed_while_filling_leaves_a_usable_cache(self, folder, filler, caplog):
        process = filler(3, 1)
        self.begin(process)
        assert process.stdout.readline() == "filling\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        right, filled = self.stored(folder)
        assert 0 < right == filled
        second = ImageCache(folder, 300, (64, 64), 300)
        for slot in range(300):
            if second.get(slot) is None:
                second.put(slot, image(slot, (64, 64, 3)))
        assert self.stored(folder) == (300, 300)
        assert warnings(caplog) == []


class TestRun:
    SIZE = (32, 32)

    def batches(self, index, cache):
        rows = index.split("train")
        source = ResizedImages(index, self.SIZE, "letterbox", cache)
        return TrainingBatches(source, rows, PLAIN, self.SIZE, 4, 0, 2, num_threads=2)

    @pytest.mark.parametrize("name", ["photos", "entries"])
    def test_damage_during_training_gives_the_same_batches(self, index, name):
        training = self.batches(index, None)
        plain = [images for _ in range(4) for images, _ in training]
        cache = open_cache(index, self.SIZE, "letterbox", 1)
        training, seen = self.batches(index, cache), []
        for epoch in range(4):
            seen += [images for images, _ in training]
            if epoch == 1:
                os.truncate(cache.folder / name, 40_000 if name == "photos" else 100)
        np.testing.assert_array_equal(seen, plain)

    def test_a_full_disk_gives_the_same_batches(self, index, monkeypatch, caplog):
        training = self.batches(index, None)
        plain = [images for _ in range(2) for images, _ in training]
        cache = open_cache(index, self.SIZE, "letterbox", 1)

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(module.os, "pwrite", full)
        training = self.batches(index, cache)
        np.testing.assert_array_equal([images for _ in range(2) for images, _ in training], plain)
        assert len(warnings(caplog)) == 1

    def test_an_image_is_decoded_once(self, index, monkeypatch):
        import rp2k_lab.dataset.loader as loader

        decoded = []
        monkeypatch.setattr(loader, "read_resized", lambda *args: decoded.append(args[0]) or read_resized(*args))
        training = self.batches(index, open_cache(index, self.SIZE, "letterbox", 1))
        for _ in range(6):
            list(training)
        assert len(decoded) == len(set(decoded)) == len(index.split("train"))

    @pytest.mark.slow
    @pytest.mark.parametrize("cache_gb", [1, pytest.param(0, marks=pytest.mark.soak)])
    def test_memory_stays_flat(self, index, cache_gb):
        training = self.batches(index, open_cache(index, self.SIZE, "letterbox", cache_gb))
        process, resident = psutil.Process(), []
        for _ in range(10):
            for _ in range(10):  # ten times over the small set
                for _ in training:
                    pass
            gc.collect()
            resident.append(process.memory_info().rss)
        assert max(resident[2:]) - resident[1] < 4e6, resident
