"""The cache: filled once, read for ever, and never a wrong picture whatever happens to its files."""

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
from rp2k_lab.aug import build_augmentation
from rp2k_lab.dataset.image import read_resized
from rp2k_lab.dataset.image_cache import PhotoCache, open_cache
from rp2k_lab.dataset.loader import ResizedPhotos, TrainingBatches
from rp2k_lab.dataset.photo_index import build_index
from tests.helpers.dataset_options import dataset

COUNT, SHAPE = 6, (8, 9, 3)
BYTES = 8 * 9 * 3
PLAIN = SimpleNamespace(name="none", crop=None, flip=0.0, color=0.0)


def photo(place: int, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(place).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def filled(folder):
    """A cache that holds every photo."""
    cache = PhotoCache(folder, COUNT, SHAPE[:2], COUNT)
    for place in range(COUNT):
        cache.put(place, photo(place))
    return cache


def places(cache, expected=photo) -> list[int]:
    """The places that hold a photo, each checked to be the right one."""
    held = []
    for place in range(COUNT):
        found = cache.get(place)
        if found is not None:
            np.testing.assert_array_equal(found, expected(place))
            held.append(place)
    return held


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


class TestPlaces:
    def test_are_empty_first(self, folder):
        cache = PhotoCache(folder, COUNT, SHAPE[:2], COUNT)
        assert cache.filled == 0
        assert places(cache) == []

    def test_are_read_back_and_kept(self, filled, folder, caplog):
        assert places(filled) == list(range(COUNT))
        again = PhotoCache(folder, COUNT, SHAPE[:2], COUNT)
        assert again.filled == COUNT
        assert places(again) == list(range(COUNT))
        assert warnings(caplog) == []

    def test_give_arrays_of_their_own(self, filled):
        filled.get(2)[:] = 0
        assert places(filled) == list(range(COUNT))

    @pytest.mark.parametrize("color", [0, 255])
    @pytest.mark.parametrize("shape", [(8, 9, 3), (7, 9, 3), (1, 1, 3)])
    def test_plain_photos(self, folder, shape, color):
        """A black photo's sum is that of an empty place; a length that 8 does not divide has a rest."""
        plain = np.full(shape, color, np.uint8)
        cache = PhotoCache(folder, COUNT, shape[:2], COUNT)
        cache.put(3, plain)
        np.testing.assert_array_equal(cache.get(3), plain)
        assert cache.get(2) is None
        assert cache.get(4) is None

    def test_room_bounds_them(self, folder):
        cache = PhotoCache(folder, COUNT, SHAPE[:2], 4)
        for place in range(COUNT):
            cache.put(place, photo(place))
        assert places(cache) == [0, 1, 2, 3]
        assert PhotoCache(folder, COUNT, SHAPE[:2], COUNT).filled == 4

    def test_take_no_room_before_they_are_filled(self, folder):
        PhotoCache(folder, 10**6, (64, 64), 10**6)
        assert sum(file.stat().st_blocks * 512 for file in folder.iterdir()) < 10**6

    def test_descriptors_are_closed(self, folder):
        before = psutil.Process().num_fds()
        for _ in range(20):
            PhotoCache(folder, COUNT, SHAPE[:2], COUNT)
        gc.collect()
        assert psutil.Process().num_fds() <= before + 2


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "a bit of a photo": (lambda f: flip(f / "photos", 2 * BYTES + 50), [2]),
    "the last byte of a photo": (lambda f: flip(f / "photos", 3 * BYTES - 1), [2]),
    "a checksum": (lambda f: flip(f / "entries", 2 * 16 + 5), [2]),
    "a photo of zeros": (lambda f: write_at(f / "photos", 2 * BYTES, bytes(BYTES)), [2]),
    "a photo in another's place": (lambda f: write_at(f / "photos", 2 * BYTES, photo(4).tobytes()), [2]),
    "half a photo of zeros": (lambda f: write_at(f / "photos", 2 * BYTES, bytes(BYTES // 2)), [2]),
    "all photos zeros": (lambda f: write_at(f / "photos", 0, bytes(COUNT * BYTES)), list(range(COUNT))),
    "photos cut off": (lambda f: os.truncate(f / "photos", 3 * BYTES + 7), [3, 4, 5]),
    "photos emptied": (lambda f: os.truncate(f / "photos", 0), list(range(COUNT))),
}


def write_at(file, at, data):
    with open(file, "r+b") as opened:
        opened.seek(at)
        opened.write(data)


class TestDamage:
    @pytest.mark.parametrize("name", DAMAGE)
    def test_while_open_is_found_told_once_and_healed(self, filled, folder, name, caplog):
        """Each photo had been read and found right before."""
        assert places(filled) == list(range(COUNT))
        damage, lost = DAMAGE[name]
        damage(folder)
        assert places(filled) == [place for place in range(COUNT) if place not in lost]
        for place in lost[::-1]:  # the last first: in between lies a hole that reads as zeros
            filled.put(place, photo(place))
            places(filled)
        assert places(filled) == list(range(COUNT))
        assert warnings(caplog) == [f"the cache {folder} holds damaged photos, which are made anew"]

    @pytest.mark.parametrize("name", DAMAGE)
    def test_found_at_the_start_is_told_and_healed(self, filled, folder, name, caplog):
        damage, lost = DAMAGE[name]
        damage(folder)
        cache = PhotoCache(folder, COUNT, SHAPE[:2], COUNT)
        held = places(cache)
        assert not set(held) & set(lost)
        for place in range(COUNT):
            cache.put(place, photo(place))
        assert places(cache) == list(range(COUNT))
        assert len(warnings(caplog)) == 1

    @pytest.mark.parametrize("name", ["photos", "entries"])
    @pytest.mark.parametrize("length", [None, 0, 5, 10**5])
    def test_files_of_another_length_are_made_anew(self, filled, folder, name, length, caplog):
        if length is None:
            (folder / name).unlink()
        else:
            os.truncate(folder / name, length)
        cache = PhotoCache(folder, COUNT, SHAPE[:2], COUNT)
        assert (cache.filled, places(cache)) == (0, [])
        assert warnings(caplog) == [f"the cache {folder} is damaged and made anew"]
        cache.put(1, photo(1))
        assert places(cache) == [1]

    @pytest.mark.parametrize(
        "size", [(9, 9), (8, 10), (7, 9), (9, 8), (0, 9), (8, 0), (2**31, 1), (2**32 - 1, 2**32 - 1)]
    )
    @pytest.mark.parametrize("plain", [False, True])
    def test_another_size_in_an_entry(self, folder, size, plain):
        """Behind a photo that is smaller than its place lie zeros, which no sum of what is read would miss."""
        kept = np.zeros(SHAPE, np.uint8) if plain else photo(1)
        cache = PhotoCache(folder, COUNT, (16, 16), COUNT)
        cache.put(1, kept)
        np.testing.assert_array_equal(cache.get(1), kept)
        write_at(folder / "entries", 16 + 8, struct.pack("<II", *size))
        assert cache.get(1) is None
        cache.put(1, kept)
        np.testing.assert_array_equal(cache.get(1), kept)

    def test_cut_off_entries_while_open(self, filled, folder):
        os.truncate(folder / "entries", 3 * 16)
        assert places(filled) == [0, 1, 2]
        filled.put(5, photo(5))
        assert places(filled) == [0, 1, 2, 5]

    def test_deleted_while_open_goes_on(self, filled, folder, caplog):
        shutil.rmtree(folder)
        filled.put(0, photo(0))
        assert places(filled) == list(range(COUNT))
        assert warnings(caplog) == []
        assert PhotoCache(folder, COUNT, SHAPE[:2], COUNT).filled == 0

    def test_made_anew_by_another_while_open(self, filled, folder):
        """The other process must not pull the file from under this one."""
        os.truncate(folder / "photos", 5)
        other = PhotoCache(folder, COUNT, SHAPE[:2], COUNT)
        assert places(filled) == []
        for cache, place in ((filled, 2), (other, 3)):
            cache.put(place, photo(place))
        assert places(filled) == [2]
        assert places(other) == [3]

    def test_an_unreadable_disk_is_damage(self, filled, monkeypatch, caplog):
        def fails(*_):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(module.os, "preadv", fails)
        assert places(filled) == []
        assert len(warnings(caplog)) == 1


class TestFullDisk:
    @pytest.fixture
    def full_after(self, monkeypatch):
        """full_after(n): the n-th write is the last that succeeds; `partly` bytes of the next one do."""

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

    @pytest.mark.parametrize(("writes", "partly", "held"), [(4, None, [0, 1]), (5, None, [0, 1]), (4, 17, [0, 1])])
    def test_ends_the_filling_with_one_warning(self, folder, full_after, caplog, writes, partly, held):
        full_after(writes, partly)
        cache = PhotoCache(folder, COUNT, SHAPE[:2], COUNT)
        for place in range(COUNT):
            cache.put(place, photo(place))
        assert places(cache) == held
        assert warnings(caplog) == [f"the cache {folder} takes no more photos (No space left on device)"]

    def test_is_told_once_by_many_threads(self, folder, monkeypatch, caplog):
        meet = threading.Barrier(8)

        def pwrite(*_):
            meet.wait(10)  # all are on their way before the first one fails
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(module.os, "pwrite", pwrite)
        cache = PhotoCache(folder, COUNT, SHAPE[:2], COUNT)
        threads = [threading.Thread(target=cache.put, args=(0, photo(0))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(warnings(caplog)) == 1

    def test_a_real_one(self, tmp_path, caplog):
        """64 kB of memory as a disk."""
        disk = tmp_path / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this user cannot mount a small disk")
        try:
            cache = PhotoCache(disk / "cache", COUNT, (80, 80), COUNT)
            for place in range(COUNT):
                cache.put(place, photo(place, (80, 80, 3)))
            held = places(cache, lambda place: photo(place, (80, 80, 3)))
            assert 0 < len(held) < COUNT
            assert held == list(range(len(held)))
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
    PHOTO_GB = 32 * 32 * 3 / 1e9

    def test_no_room_no_cache(self, index, data_folder):
        assert open_cache(index, self.SIZE, "letterbox", 0) is None
        assert not (data_folder / "cache").exists()

    def test_says_what_it_takes_and_holds(self, index, data_folder, caplog):
        caplog.set_level("INFO")
        cache = open_cache(index, self.SIZE, "letterbox", 1)
        photos = ResizedPhotos(index, self.SIZE, "letterbox", cache)
        for row in range(5):
            photos(row)
        open_cache(index, self.SIZE, "letterbox", 1)
        first, second = (record.getMessage() for record in caplog.records)
        folder = cache.folder
        assert folder.parent == data_folder / "cache"
        assert first == f"cache: all of 24 photos at 32×32 in at most 1 MB, 0 of them there ({folder})"
        assert second == f"cache: all of 24 photos at 32×32 in at most 1 MB, 5 of them there ({folder})"

    def test_gigabytes_bound_the_places(self, index, caplog):
        caplog.set_level("INFO")
        cache = open_cache(index, self.SIZE, "letterbox", 7.5 * self.PHOTO_GB)
        photos = ResizedPhotos(index, self.SIZE, "letterbox", cache)
        for row in range(24):
            photos(row)
        again = open_cache(index, self.SIZE, "letterbox", 7.5 * self.PHOTO_GB)
        assert (again.filled, again.room) == (7, 7)
        assert "cache: the first 7 of 24 photos" in caplog.text

    def test_more_room_later_keeps_what_is_there(self, index):
        small = open_cache(index, self.SIZE, "letterbox", 7 * self.PHOTO_GB)
        photos = ResizedPhotos(index, self.SIZE, "letterbox", small)
        for row in range(24):
            photos(row)
        large = open_cache(index, self.SIZE, "letterbox", 1)
        assert (large.filled, large.room) == (7, 24)

    def test_a_small_disk_bounds_them_as_well(self, index, monkeypatch, caplog):
        free = SimpleNamespace(free=module._RESERVE_BYTES + 5 * 32 * 32 * 3)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: free)
        assert open_cache(index, self.SIZE, "letterbox", 1).room == 5
        assert warnings(caplog) == ["cache: the disk has room for 5 photos only"]

    def test_where_it_cannot_be_made_the_run_goes_on(self, index, data_folder, caplog):
        (data_folder / "cache").write_text("a file in its place")
        assert open_cache(index, self.SIZE, "letterbox", 1) is None
        (message,) = warnings(caplog)
        assert message.startswith("no cache: ")
        assert message.endswith(" cannot be made (Not a directory)")

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

    def test_a_photo_that_was_touched_is_another_cache(self, index, root):
        before = open_cache(index, self.SIZE, "letterbox", 1).folder
        assert open_cache(build_index(dataset(root)), self.SIZE, "letterbox", 1).folder == before
        file = root / "train" / "a" / "03.png"
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
        assert open_cache(build_index(dataset(root)), self.SIZE, "letterbox", 1).folder != before

    def test_a_photo_that_was_replaced_by_one_of_its_size_and_date(self, index, root):
        """What the name cannot tell is what no tool can tell without reading; documented, not wished for."""
        cache = open_cache(index, self.SIZE, "letterbox", 1)
        photos = ResizedPhotos(index, self.SIZE, "letterbox", cache)
        before = photos(3)
        file = index.root / index.table["path"][3]
        stat, data = file.stat(), file.read_bytes()
        file.write_bytes(bytes(reversed(data)))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        np.testing.assert_array_equal(photos(3), before)


# Fills a cache over and over in an order of its own; prints once all is read back right.
WORKER = """
import sys
from pathlib import Path
import numpy as np
from rp2k_lab.dataset.image_cache import PhotoCache
folder, seed, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
shape, count = (64, 64, 3), 300
photo = lambda place: np.random.default_rng(place).integers(0, 256, shape, np.uint8)
photos = [photo(place) for place in range(count)]
print("ready", flush=True)
sys.stdin.readline()
cache = PhotoCache(folder, count, shape[:2], count)
made = 0
for turn in range(rounds):
    for place in np.random.default_rng([seed, turn]).permutation(count).tolist():
        found = cache.get(place)
        if found is None:
            cache.put(place, photos[place])
            made += 1
        else:
            assert (found == photos[place]).all(), place
        if turn == 0 and place == 7:
            print("filling", flush=True)
print(made, flush=True)
"""


class TestProcesses:
    @pytest.fixture
    def worker(self, folder):
        """worker(seed, rounds): a process that waits for a line before it opens the cache."""
        started = []

        def start(seed, rounds):
            command = [sys.executable, "-c", WORKER, str(folder), str(seed), str(rounds)]
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

    def held(self, folder):
        cache = PhotoCache(folder, 300, (64, 64), 300)
        right = 0
        for place in range(300):
            found = cache.get(place)
            if found is not None:
                np.testing.assert_array_equal(found, photo(place, (64, 64, 3)))
                right += 1
        return right, cache.filled

    def test_two_may_fill_one_cache_at_once(self, folder, worker, caplog):
        both = [worker(seed, 3) for seed in (1, 2)]
        self.begin(*both)
        made = []
        for process in both:
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
            assert err == ""  # no damage found
            made.append(int(out.split()[-1]))
        assert sum(made) >= 300
        assert self.held(folder) == (300, 300)
        assert warnings(caplog) == []

    def test_killed_while_filling_leaves_a_usable_one(self, folder, worker, caplog):
        process = worker(3, 1)
        self.begin(process)
        assert process.stdout.readline() == "filling\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        right, filled = self.held(folder)
        assert 0 < right == filled
        second = PhotoCache(folder, 300, (64, 64), 300)
        for place in range(300):
            if second.get(place) is None:
                second.put(place, photo(place, (64, 64, 3)))
        assert self.held(folder) == (300, 300)
        assert warnings(caplog) == []


class TestRun:
    SIZE = (32, 32)

    def batches(self, index, cache):
        rows = index.split("train")
        photos, augmentation = (
            ResizedPhotos(index, self.SIZE, "letterbox", cache),
            build_augmentation(PLAIN, self.SIZE, (0, 0, 0)),
        )
        return TrainingBatches(photos, rows, augmentation, self.SIZE, 4, 0, 2, workers=2)

    @pytest.mark.parametrize("name", ["photos", "entries"])
    def test_damaged_in_its_midst_gives_the_same_batches(self, index, name):
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

    def test_a_photo_is_decoded_once(self, index, monkeypatch):
        import rp2k_lab.dataset.loader as batches

        decoded = []
        monkeypatch.setattr(batches, "read_resized", lambda *args: decoded.append(args[0]) or read_resized(*args))
        training = self.batches(index, open_cache(index, self.SIZE, "letterbox", 1))
        for _ in range(6):
            list(training)
        assert len(decoded) == len(set(decoded)) == len(index.split("train"))

    @pytest.mark.parametrize("cache_gb", [0, 1])
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
