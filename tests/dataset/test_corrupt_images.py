"""Unusual and corrupt files from the listing to the batch: the pixels are right, or an error names the file."""

import contextlib
import errno
import io
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rp2k_lab.dataset.image_cache as cache_module
from rp2k_lab.aug.augmentation import Augmentation
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.image import UNREADABLE_HINT, fit, letterbox, pad_to_center, read_image, read_resized, stretch
from rp2k_lab.dataset.image_cache import open_cache
from rp2k_lab.dataset.loader import ResizedImages, TrainingBatches, evaluation_batches
from rp2k_lab.dataset.photo_index import build_index, list_images
from rp2k_lab.dataset.source.rp2k import Rp2k
from tests.helpers import corrupt_images
from tests.helpers.dataset_options import dataset

pytestmark = pytest.mark.usefixtures("data_folder")

PLAIN = Augmentation(None, (), None)
READABLE, CORRUPT = corrupt_images.readable_files(), corrupt_images.corrupt_files()
SIZE = (32, 32)
NOBODY = 65534  # user and group id


@pytest.fixture
def root(tmp_path, write_photo):
    """Return a data set: two classes with three images each in train and one in val, all of them good."""
    root = tmp_path / "set"
    for name in ("红茶", "a b.c"):
        for i in range(3):
            write_photo(root / "train" / name / f"{i}.png", 20, 30, seed=i)
        write_photo(root / "val" / name / "v.png", 20, 30)
    return root


def put(root, data, name="x.jpg", folder="train/红茶"):
    (root / folder / name).write_bytes(data)
    return root / folder / name


def row_of(index, file) -> int:
    """Return a file's position in the index's table."""
    (row,) = np.flatnonzero(index.table["path"] == file.relative_to(index.root).as_posix())
    return int(row)


def training(index, num_threads=2, source=None):
    """Return epochs of one batch with all training images."""
    rows, source = index.split("train"), source or ResizedImages(index, SIZE, "letterbox")
    return TrainingBatches(source, rows, PLAIN, SIZE, len(rows), 0, len(index.classes), num_threads=num_threads)


@contextlib.contextmanager
def refused(file, reason):
    """Expect a DataError with the file and the reason in line 1, and the hint in line 2."""
    with pytest.raises(DataError) as error:
        yield
    assert str(error.value).split("\n") == [f"{escape_controls(file)}: {reason}", UNREADABLE_HINT]


@pytest.mark.parametrize("name", READABLE)
def test_unusual_files_are_read(root, name, capfd):
    data = READABLE[name]
    file = put(root, data)  # .jpg, whatever the content
    # Pillow refuses a PNG over a comment's checksum.
    image, expected = (
        read_image(file),
        corrupt_images.decode_with_pillow(READABLE["png"] if name == "png-damaged-comment" else data),
    )
    assert image.dtype == np.uint8
    assert image.max() > 20  # not black
    np.testing.assert_allclose(image.astype(int), expected, atol=3 if "cmyk" in name or name == "webp" else 1)
    index = build_index(dataset(root))
    row = index.table.iloc[row_of(index, file)]
    assert (row["height"], row["width"]) == image.shape[:2]
    resized = read_resized(file, SIZE, "letterbox")
    padded = pad_to_center(resized, SIZE, SIZE)
    assert any(side == most for side, most in zip(resized.shape, SIZE, strict=False))
    if max(image.shape) < 2 * max(SIZE):  # a larger JPEG is decoded at a part of its size
        np.testing.assert_array_equal(padded, letterbox(image, SIZE))
    np.testing.assert_array_equal(ResizedImages(index, SIZE, "stretch")(row.name), read_resized(file, SIZE, "stretch"))
    batches = training(index)
    ((images, _),) = batches
    position = batches.rows.index(row.name)
    np.testing.assert_array_equal(images[batches.order(0).tolist().index(position)], padded)
    assert capfd.readouterr().err == ""


def test_orientations_are_those_of_exif():
    """Pillow, the reference of the other tests, against NumPy."""
    pixels = np.asarray(corrupt_images.RGB)
    upright = [pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1], pixels.transpose(1, 0, 2)]
    upright += [np.rot90(pixels, -1), pixels[::-1, ::-1].transpose(1, 0, 2), np.rot90(pixels)]
    for value, expected in enumerate(upright, start=1):
        np.testing.assert_array_equal(corrupt_images.decode_with_pillow(READABLE[f"png-orientation-{value}"]), expected)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_large_jpeg_is_turned_at_every_reduction(tmp_path, value, mode):
    """Decoding at a fraction of the size turns the image in the same way."""
    image = corrupt_images.RGB.resize((640, 400)).convert(mode)
    image.save(tmp_path / "a.jpg", quality=95, exif=corrupt_images.oriented(value))
    whole = read_image(tmp_path / "a.jpg")
    assert whole.shape == ((400, 640, 3) if value < 5 else (640, 400, 3))
    for size in (300, 150, 70, 40):
        resized = read_resized(tmp_path / "a.jpg", (size, size), "stretch").astype(int)
        np.testing.assert_allclose(resized, stretch(whole, (size, size)), atol=6)


def test_listed_size_equals_the_pixels_for_an_orientation_of_the_wrong_type(root):
    """Pillow and OpenCV read it differently."""
    exif = corrupt_images.raw_exif(4, 1, b"\0\0\0\6")
    file = put(root, corrupt_images.encoded(corrupt_images.RGB, "JPEG", exif=exif))
    index = build_index(dataset(root))
    row = index.table.iloc[row_of(index, file)]
    assert (row["height"], row["width"], 3) == read_image(file).shape


def test_orientation_after_the_pixels_of_a_png_is_ignored(root):
    data = READABLE["png"]
    late = data[:-12] + corrupt_images.png_chunk(b"eXIf", corrupt_images.oriented(6).tobytes()[6:]) + data[-12:]
    file = put(root, late)
    index = build_index(dataset(root))
    row = index.table.iloc[row_of(index, file)]
    assert (
        (row["height"], row["width"], 3) == read_image(file).shape == (corrupt_images.HEIGHT, corrupt_images.WIDTH, 3)
    )


@pytest.mark.parametrize("name", CORRUPT)
class TestCorruptContent:
    def test_is_named_by_the_index_or_the_reader(self, root, name, capfd):
        data, reason, in_header = CORRUPT[name]
        file = put(root, data)
        with refused(file, reason):
            read_image(file)
        with refused(file, reason):
            read_resized(file, SIZE, "letterbox")
        if in_header:
            with refused(file, reason):
                build_index(dataset(root))
        else:
            index = build_index(dataset(root))
            batches = training(index)
            with refused(file, reason):
                list(batches)
            assert isinstance(batches.failure, DataError)
            with refused(file, reason):
                list(evaluation_batches(ResizedImages(index, SIZE, "stretch"), index.split("train"), SIZE, 2))
        assert capfd.readouterr().err == ""  # messages of the decoders would bury the two lines

    def test_is_listed_and_skipped(self, root, name, caplog):
        data, reason, _ = CORRUPT[name]
        put(root, data)
        clean = [path for path in list_images(dataset(root), decode=True).table["path"] if "x.jpg" not in path]
        index = build_index(dataset(root, on_bad_image="skip"))
        assert index.skipped.to_numpy().tolist() == [["train/红茶/x.jpg", "红茶", "train", reason]]
        assert index.table["path"].tolist() == clean
        assert "1 of 9 photos cannot be read and are skipped, the first train/红茶/x.jpg" in caplog.text
        ((images, _),) = training(index)
        assert images.any((1, 2, 3)).all()


class TestTooLarge:
    REASON = "20000×20000 pixels, more than the 268 million that are decoded"

    @pytest.fixture
    def bomb(self):
        """Return 50 kB of PNG with 400 million pixels."""
        return corrupt_images.png(20000, 20000, 1, 0, bytes(20000 * 2501))

    def test_is_named_and_takes_no_memory(self, root, bomb):
        file = put(root, bomb, "x.png")
        build = lambda: build_index(dataset(root))  # noqa: E731
        with refused(file, self.REASON):
            build()
        assert peak_of(build) < 30e6
        assert build_index(dataset(root, on_bad_image="skip")).skipped["problem"].tolist() == [self.REASON]

    def test_is_refused_by_the_reader(self, root, bomb):
        """It may have replaced an image after the index was built."""
        file = put(root, bomb, "x.png")
        reads = lambda: read_image(file)  # noqa: E731
        with pytest.raises(DataError, match=r"x\.png"):
            reads()
        assert peak_of(reads) < 30e6

    def test_jpeg_with_a_wrong_size_in_its_header(self, root):
        jpeg = bytearray(corrupt_images.encoded(corrupt_images.NOISE, "JPEG"))
        frame = jpeg.find(b"\xff\xc0")
        jpeg[frame + 5 : frame + 9] = (20000).to_bytes(2) * 2
        with refused(put(root, bytes(jpeg)), self.REASON):
            build_index(dataset(root))

    def test_header_of_a_large_png_is_read_without_decoding(self, root):
        """Pillow's getexif() would decode it."""
        put(root, corrupt_images.png(16000, 16000, 1, 0, bytes(16000 * 2001)), "x.png")
        build = lambda: build_index(dataset(root))  # noqa: E731
        build()
        shutil.rmtree(root.parent / "data")
        assert peak_of(build) < 30e6

    def test_file_of_two_gigabytes(self, root):
        file = put(root, READABLE["jpeg"])
        os.truncate(file, 2 * 10**9)
        with refused(file, "2000000000 bytes, more than a photo has"):
            build_index(dataset(root))


def peak_of(function) -> int:
    """Return the bytes by which a function raises the process's peak memory; ignore its DataError."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the kernel cannot reset a process's peak memory")

    def kilobytes(name):
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1])

    before = kilobytes("VmRSS")
    with contextlib.suppress(DataError):
        function()
    return (kilobytes("VmHWM") - before) * 1024


class TestNames:
    LONG = "长" * 83 + "ab.jpg"

    @pytest.mark.parametrize(
        "name", ["A.JPG", "b.JpEg", "c.PNG", "截屏2019-12-09下午7.49", "no_suffix", "wrong.txt", "😀.jpg", LONG,
                 "é.jpg", "e\u0301.jpg", "<b>&amp;\"'.jpg", "tab\there.jpg", "two\nlines.jpg", "\x1b[31mred\r.jpg",
                 "a,b;c.jpg", " .jpg", "'; drop table--.jpg", "%s{}$HOME.jpg", "-rf.jpg", "\u202egpj.exe.jpg",
                 "back\\slash.jpg"]
    )  # fmt: skip
    def test_of_any_kind_are_accepted(self, root, name):
        assert len(os.fsencode(name)) <= 255
        file = put(root, READABLE["jpeg"], name)
        index = build_index(dataset(root))
        again = build_index(dataset(root))  # from cached headers
        assert row_of(index, file) == row_of(again, file)
        np.testing.assert_array_equal(
            ResizedImages(index, SIZE, "letterbox")(row_of(index, file)), read_resized(file, SIZE, "letterbox")
        )
        assert index.fingerprint == again.fingerprint

    def test_the_long_name_has_255_bytes(self):
        assert len(os.fsencode(self.LONG)) == 255

    @pytest.mark.parametrize("name", ["two\nlines.jpg", "\x1b[31mred.jpg", "tab\t.jpg", "\u202egpj.jpg"])
    def test_messages_stay_two_printable_lines(self, root, name, caplog):
        file = put(root, b"no image", name)
        with pytest.raises(DataError) as error:
            build_index(dataset(root))
        lines = str(error.value).split("\n")
        assert len(lines) == 2
        assert all(line.isprintable() for line in lines)
        with refused(file, "neither JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, HEIC nor JPEG 2000"):
            read_image(file)
        with refused(file.with_name(f"2{name}"), "No such file or directory"):
            read_image(file.with_name(f"2{name}"))
        index = build_index(dataset(root, on_bad_image="skip"))
        assert index.skipped["path"].tolist() == [f"train/红茶/{name}"]
        assert caplog.text.splitlines()[-1].isprintable()

    @pytest.mark.parametrize("name", ["<script>alert(1)</script>".replace("/", "∕"), "a\tb", "a\u2028b", "单" * 85])
    def test_class_names(self, root, name, write_photo):
        for i in range(2):
            write_photo(root / "train" / name / f"{i}.png")
        index = build_index(dataset(root))
        assert name in index.classes
        assert len(index.table[index.table["class"] == name]) == 2

    def test_root_of_255_bytes(self, root, caplog):
        """Cache files add a suffix to its name."""
        root = root.rename(root.parent / ("集" * 85))
        first = build_index(dataset(root))
        assert build_index(dataset(root)).fingerprint == first.fingerprint
        assert caplog.text == ""

    def test_file_name_that_is_not_utf8(self, root):
        """RP2K's archive, unpacked by a tool without GBK."""
        name = "红茶.jpg".encode("gbk")
        with open(os.path.join(os.fsencode(root / "train" / "红茶"), name), "wb") as file:
            file.write(READABLE["jpeg"])
        with pytest.raises(DataError) as error:
            build_index(dataset(root))
        first, second = str(error.value).split("\n")
        reason = "its name is not UTF-8 (convmv -f gbk -t utf8 renames a copy)"
        assert first == rf"{root}/train/红茶/\xba\xec\xb2\xe8.jpg: {reason}"
        assert second == UNREADABLE_HINT
        index = build_index(dataset(root, on_bad_image="skip"))
        assert index.skipped["path"].tolist() == [r"train/红茶/\xba\xec\xb2\xe8.jpg"]

    @pytest.mark.parametrize("count", [0, 2])
    def test_class_name_that_is_not_utf8(self, root, count):
        folder = os.path.join(os.fsencode(root), b"train", "可乐".encode("gbk"))
        os.mkdir(folder)
        for i in range(count):
            with open(os.path.join(folder, b"%d.jpg" % i), "wb") as file:
                file.write(READABLE["jpeg"])
        with pytest.raises(DataError, match=r"\\xbf\\xc9\\xc0\\xd6.*" + ("UTF-8" if count else "without a photo")):
            build_index(dataset(root))


class TestOtherFiles:
    @pytest.mark.parametrize(
        ("name", "data"),
        [("Thumbs.db", b"\xd0\xcf\x11\xe0"), (".DS_Store", b"x"), ("._a.jpg", b"x"), ("BMW.txt", b"BMW 320i, 3 pieces"),
         ("sound", b"RIFF\0\0\0\0WAVEfmt "), ("empty", b"")]
    )  # fmt: skip
    def test_are_left_out(self, root, name, data, caplog):
        caplog.set_level("INFO")
        before = build_index(dataset(root)).fingerprint
        put(root, data, name)
        assert build_index(dataset(root)).fingerprint == before
        assert "no photos, not used: 1 " in caplog.text
        assert f"; the first train/红茶/{name}" in caplog.text

    def test_folder_named_like_an_image(self, root):
        (root / "train" / "红茶" / "x.jpg").mkdir()
        listing = list_images(dataset(root), decode=False)
        assert listing.other_files == ["train/红茶/x.jpg/"]

    @pytest.mark.parametrize("name", ["pipe.jpg", "pipe"])
    def test_pipe_is_not_opened(self, root, name):
        """Opening it would block forever."""
        os.mkfifo(root / "train" / "红茶" / name)
        listing = list_images(dataset(root), decode=True)
        problems = listing.table["problem"].dropna().tolist()
        assert (problems, listing.other_files) in ((["no regular file"], []), ([], ["train/红茶/pipe"]))


class TestLinks:
    def test_to_images_and_classes_are_followed(self, root, tmp_path):
        shutil.copytree(root / "train" / "红茶", tmp_path / "elsewhere" / "可乐")
        (root / "train" / "可乐").symlink_to(tmp_path / "elsewhere" / "可乐")
        (root / "train" / "红茶" / "x.jpg").symlink_to(root / "train" / "a b.c" / "0.png")
        index = build_index(dataset(root))
        assert index.train_counts().tolist() == [3, 3, 4]

    @pytest.mark.parametrize("name", ["x.jpg", "no_suffix"])
    @pytest.mark.parametrize(
        ("target", "reason"), [("nowhere.jpg", "no such file, or a broken link"), (None, "a link that leads to itself")]
    )
    def test_broken_ones_are_named_and_skipped(self, root, name, target, reason):
        link = root / "train" / "红茶" / name
        link.symlink_to(target or name)
        with refused(link, reason):
            build_index(dataset(root))
        index = build_index(dataset(root, on_bad_image="skip"))
        assert index.skipped["problem"].tolist() == [reason]
        strerror = os.strerror(errno.ENOENT if target else errno.ELOOP)
        with refused(link, strerror):
            read_image(link)

    @pytest.mark.parametrize("place", ["test", "train/可乐"])
    @pytest.mark.parametrize("target", ["nowhere", None])
    def test_broken_ones_in_place_of_a_folder_are_named(self, root, place, target):
        """Otherwise a class, or all of test, would be lost without a message."""
        (root / place).symlink_to(target or Path(place).name)
        for on_bad_image in ("error", "skip"):
            with pytest.raises(DataError, match=rf"{place}: .*a broken link\nreplace or remove it"):
                build_index(dataset(root, on_bad_image=on_bad_image))

    def test_folder_that_contains_itself(self, root):
        (root / "train" / "红茶" / "loop").symlink_to(root / "train")
        assert list_images(dataset(root), decode=False).other_files == ["train/红茶/loop/"]

    def test_split_that_is_a_file(self, root):
        (root / "test").write_text("see the archive")
        with pytest.raises(DataError, match="test: no folder"):
            build_index(dataset(root))


@pytest.fixture
def unprivileged(root, monkeypatch):
    """Yield a copy of the set owned by an unprivileged user, and run the test as that user."""
    import rp2k_lab.dataset.photo_index

    folder = Path(tempfile.mkdtemp(prefix="rp2k-lab-test-", dir="/tmp"))  # pytest's folders are only root's
    shutil.copytree(root, folder / "set")
    monkeypatch.setattr(rp2k_lab.dataset.photo_index, "DATA_FOLDER", folder / "data")
    build_index(dataset(folder / "set"))  # also loads every module, whose files may be only root's
    is_root = os.geteuid() == 0
    if is_root:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
        try:
            os.seteuid(NOBODY)
        except OSError:
            shutil.rmtree(folder)
            pytest.skip("permissions do not apply to this user, and it cannot become another")
    try:
        yield folder / "set"
    finally:
        if is_root:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(folder)


class TestPermissions:
    def test_unreadable_image_is_named_and_skipped(self, unprivileged):
        """Although its header was cached while it was readable."""
        file = unprivileged / "train" / "红茶" / "0.png"
        file.chmod(0)
        with refused(file, "no permission to read it"):
            build_index(dataset(unprivileged))
        with refused(file, "Permission denied"):
            read_image(file)
        index = build_index(dataset(unprivileged, on_bad_image="skip"))
        assert index.skipped["problem"].tolist() == ["no permission to read it"]

    def test_unreadable_image_without_a_suffix_is_named(self, unprivileged):
        file = put(unprivileged, READABLE["jpeg"], "no_suffix")
        file.chmod(0)
        with refused(file, "no permission to read it"):
            build_index(dataset(unprivileged))

    def test_image_that_only_its_owner_may_read_is_fine(self, unprivileged):
        (unprivileged / "train" / "红茶" / "0.png").chmod(0o400)
        assert len(build_index(dataset(unprivileged)).table) == 8

    @pytest.mark.parametrize("place", ["", "train", "train/红茶", "val"])
    def test_folder_that_cannot_be_listed(self, unprivileged, place):
        folder = unprivileged / place
        folder.chmod(0)
        for on_bad_image in ("error", "skip"):
            with pytest.raises(DataError) as error:
                build_index(dataset(unprivileged, on_bad_image=on_bad_image))
            message = f"{folder}: the folder cannot be listed (Permission denied)\nmake it readable"
            assert str(error.value) == message

    def test_folder_that_cannot_be_entered(self, unprivileged):
        folder = unprivileged / "train" / "红茶"
        folder.chmod(0o600)
        with refused(folder / "0.png", "no permission to read it (and 2 more)"):
            build_index(dataset(unprivileged))

    def test_header_cache_that_cannot_be_written(self, unprivileged, monkeypatch, caplog):
        import rp2k_lab.dataset.photo_index

        monkeypatch.setattr(rp2k_lab.dataset.photo_index, "DATA_FOLDER", unprivileged / "closed" / "data")
        (unprivileged / "closed").mkdir(0o500)
        assert len(build_index(dataset(unprivileged)).table) == 8
        assert "cannot be cached (Permission denied)" in caplog.text

    def test_read_only_folder_is_enough(self, unprivileged):
        for path in [unprivileged, *unprivileged.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        for on_bad_image in ("error", "skip"):
            index = build_index(dataset(unprivileged, on_bad_image=on_bad_image))
            ((images, _),) = training(index)
            assert len(images) == 6


class TestFolderIsNeverWritten:
    """The published entry's preparation renamed and converted files in place, and lost data on its second run."""

    @pytest.fixture
    def messy(self, root):
        """Return a set with every kind of file that a cleaner might change."""
        for i, (name, data) in enumerate(READABLE.items()):
            put(root, data, f"{i} {name}.JPG" if i % 2 else name)
        put(root, b"", "empty.jpg")
        put(root, CORRUPT["jpeg-cut-at-0.5"][0], "cut.jpg")
        put(root, b"x", "Thumbs.db")
        (root / "train" / "红茶" / "link.jpg").symlink_to("nowhere")
        return root

    def read_everything(self, root):
        """Call every reader, like a run."""
        with pytest.raises(DataError):
            build_index(dataset(root))
        assert list_images(dataset(root), decode=True).table["problem"].notna().sum() == 3
        index = build_index(dataset(root, on_bad_image="skip"))
        for resize in ("letterbox", "stretch"):
            cache = open_cache(index, SIZE, resize, 0.1)
            source = ResizedImages(index, SIZE, resize, cache)
            batches = training(index, source=source)
            for _ in range(2):
                list(batches)
            list(evaluation_batches(source, index.split("val"), SIZE, 2))

    @pytest.mark.parametrize("locked", [False, True])
    def test_in_two_starts(self, messy, locked, monkeypatch, data_folder):
        monkeypatch.setattr(cache_module, "DATA_FOLDER", data_folder)
        if locked:
            for path in [messy, *messy.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o555 if path.is_dir() else 0o444)
        before = corrupt_images.folder_state(messy)
        for _ in range(2):
            self.read_everything(messy)
        assert corrupt_images.folder_state(messy) == before
        assert {file.name for file in messy.parent.iterdir()} == {"set", "data"}  # nor beside it


class TestBetweenIndexAndRead:
    @pytest.mark.parametrize("num_threads", [1, 4])
    def test_deleted_image_is_named(self, root, num_threads):
        index = build_index(dataset(root))
        file = root / "train" / "红茶" / "1.png"
        file.unlink()
        with refused(file, "No such file or directory"):
            list(training(index, num_threads))

    def test_deleted_folder(self, root):
        index = build_index(dataset(root))
        shutil.rmtree(root / "train" / "红茶")
        with pytest.raises(DataError, match=r"红茶/.*No such file"):
            list(training(index))

    def test_truncated_image_is_named(self, root):
        index = build_index(dataset(root))
        file = root / "train" / "红茶" / "1.png"
        data = file.read_bytes()
        file.write_bytes(data[:-40])
        with refused(file, f"a truncated or damaged PNG of {len(data) - 40} bytes"):
            list(training(index))

    def test_replaced_image_of_another_size_is_read(self, root, write_photo):
        index = build_index(dataset(root))
        file = write_photo(root / "train" / "红茶" / "1.png", 333, 44, seed=9)
        source = ResizedImages(index, SIZE, "letterbox")
        np.testing.assert_array_equal(source(row_of(index, file)), fit(read_image(file), SIZE))

    def test_image_deleted_between_scan_and_header(self, root, monkeypatch):
        scan, file = Rp2k.scan, root / "train" / "红茶" / "1.png"

        def scan_and_delete(source):
            scanned = scan(source)
            file.unlink()
            return scanned

        monkeypatch.setattr(Rp2k, "scan", scan_and_delete)
        with refused(file, "no such file, or a broken link"):
            build_index(dataset(root))


class TestClasses:
    def test_empty_class_is_named(self, root):
        (root / "train" / "空").mkdir()
        (root / "train" / "空" / "notes.txt").write_text("to come")
        for on_bad_image in ("error", "skip"):
            with pytest.raises(DataError) as error:
                build_index(dataset(root, on_bad_image=on_bad_image))
            assert str(error.value) == (
                f"{root}/train/空: a class of train without a photo\nremove the folder or fill it"
            )

    def test_class_that_train_lacks_is_named(self, root, write_photo):
        for i in range(2):
            write_photo(root / "test" / "新品" / f"{i}.jpg")
        for on_bad_image in ("error", "skip"):
            with pytest.raises(DataError) as error:
                build_index(dataset(root, on_bad_image=on_bad_image))
            first, second = str(error.value).split("\n")
            assert first == f"{root}/test/新品/0.jpg: its class has no photo in train (2 such photos)"
            assert second == "add training photos of the class, or move its folder away"

    def test_class_without_a_readable_image(self, root):
        for file in (root / "train" / "红茶").iterdir():
            file.write_bytes(b"")
        with refused(root / "train" / "红茶" / "0.png", "zero bytes (and 2 more)"):
            build_index(dataset(root))
        with pytest.raises(DataError, match="no training photo of the class 红茶 can be read\n"):
            build_index(dataset(root, on_bad_image="skip"))

    @pytest.mark.parametrize("split", ["val", "test"])
    def test_split_without_a_readable_image(self, root, split):
        """Leaving it out would be another experiment."""
        (root / split).mkdir(exist_ok=True)
        for name in ("红茶", "a b.c"):
            (root / split / name).mkdir(exist_ok=True)
            put(root, b"", "v.png", f"{split}/{name}")
        with pytest.raises(DataError) as error:
            build_index(dataset(root, on_bad_image="skip"))
        assert str(error.value) == (
            f"{root}: none of the photos of {split} can be read\nlist all such photos with task=inspect"
        )

    def test_train_without_a_class(self, root):
        for file in (root / "train").rglob("*.png"):
            file.rename(root / "train" / f"{file.parent.name} {file.name}")
        for folder in ("红茶", "a b.c"):
            (root / "train" / folder).rmdir()
        with pytest.raises(DataError) as error:
            build_index(dataset(root))
        first, second = str(error.value).split("\n")
        assert first == f"{root}: train has no photo"
        assert "train/<class>/" in second

    def test_no_train(self, root):
        shutil.rmtree(root / "train")
        with pytest.raises(RequestError, match="no folder 'train'"):
            build_index(dataset(root))


class TestSkipChangesNothingElse:
    """Val, fraction and classes are chosen before unreadable images are skipped."""

    @pytest.fixture
    def pair(self, tmp_path, write_photo):
        """Return a set, and a copy in which every fourth image is corrupt."""
        for name, count in (("a", 20), ("b", 9), ("c", 4)):
            for i in range(count):
                write_photo(tmp_path / "clean" / "train" / name / f"{i:02}.png", seed=i)
            write_photo(tmp_path / "clean" / "test" / name / "t.png")
        shutil.copytree(tmp_path / "clean", tmp_path / "dirty")
        for i, file in enumerate(sorted((tmp_path / "dirty" / "train").rglob("*.png"))):
            if i % 4 == 1:
                file.write_bytes(file.read_bytes()[: 60 if i % 8 == 1 else 0])
        return tmp_path / "clean", tmp_path / "dirty"

    @pytest.mark.parametrize(
        "options", [{}, {"fraction": 0.5}, {"val_fraction": 0.4, "val_seed": 3}, {"fraction": 0.3, "fraction_seed": 2},
                    {"min_images_per_class": 3}, {"drop_catch_all": True, "catch_all_class": "b"}]
    )  # fmt: skip
    def test_index_of_the_remaining_images(self, pair, options):
        clean, dirty = (build_index(dataset(root, on_bad_image="skip", **options)) for root in pair)
        assert len(clean.skipped) == 0
        bad = set(dirty.skipped["path"])
        assert bad
        columns = ["path", "class", "label", "split", "width", "height", "bytes"]
        expected = clean.table[~clean.table["path"].isin(bad)].reset_index(drop=True)
        assert dirty.table[columns].to_numpy().tolist() == expected[columns].to_numpy().tolist()
        assert dirty.classes == clean.classes
        splits = dict(zip(clean.table["path"], clean.table["split"], strict=True))
        assert [splits[path] for path in dirty.skipped["path"]] == dirty.skipped["split"].tolist()

    def test_index_of_a_clean_set(self, pair):
        for options in ({}, {"fraction": 0.5}):
            one, other = (build_index(dataset(pair[0], on_bad_image=choice, **options)) for choice in ("error", "skip"))
            assert (one.fingerprint, one.version, one.classes) == (other.fingerprint, other.version, other.classes)
            assert one.table.equals(other.table)

    def test_every_corrupt_image_is_counted(self, pair):
        listing = list_images(dataset(pair[1]), decode=True)
        assert listing.table["problem"].notna().sum() == 8
        with pytest.raises(DataError, match=r"zero bytes \(and 3 more\)"):
            build_index(dataset(pair[1]))


def test_any_exception_of_a_decoder_becomes_a_data_error(root, monkeypatch):
    """Pillow and OpenCV raise many types for damaged files; each error must name the file."""
    import rp2k_lab.dataset.image_by_pillow as module

    file = put(root, READABLE["png-alpha"], "x.png")
    for error in (MemoryError(), OverflowError("too large"), KeyError("x"), RecursionError(), AssertionError()):
        monkeypatch.setattr(module, "pixels", lambda *_, error=error: (_ for _ in ()).throw(error))
        with refused(file, f"a truncated or damaged PNG of {file.stat().st_size} bytes"):
            read_image(file)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("jpeg-cmyk", "CMYK"), ("png-palette", "P"), ("png-16-bit-gray", "I;16"), ("png-gray-alpha", "LA")],
)
def test_the_helpers_files_have_their_modes(name, mode):
    """A file without its peculiarity would always pass."""
    with Image.open(io.BytesIO(READABLE[name])) as image:
        assert image.mode == mode
