"""predict.py of an export: the pixels and the answers of the lab."""

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rp2k_lab.dataset.image import pad_to_center, read_resized
from rp2k_lab.evaluation.open_set import OpenSet
from rp2k_lab.serving import predict


class Session:
    """A network that gives the mean color of each image."""

    def get_inputs(self):
        return [types.SimpleNamespace(shape=self.shape)]

    def __init__(self, batch="batch"):
        self.shape = [batch, 32, 24, 3]

    def run(self, names, inputs):
        assert isinstance(self.shape[0], str) or len(inputs["images"]) == self.shape[0]
        means = inputs["images"].mean((1, 2)).astype(np.float32) + 1
        probabilities = means / means.sum(1, keepdims=True)
        return [probabilities, probabilities.max(1), means]


@pytest.fixture
def recognizer(tmp_path, monkeypatch):
    """recognizer(batch="batch", **card): a recognizer with the network `Session`."""

    def build(batch="batch", **card):
        card = {"size": [32, 24], "resize": "letterbox", "crop_ratio": 1.0, "open_set": None} | card
        (tmp_path / "model.json").write_text(json.dumps(card))
        (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
        monkeypatch.setattr(predict.onnxruntime, "InferenceSession", lambda *_, **__: Session(batch))
        return predict.Recognizer(tmp_path)

    return build


def photos(folder: Path) -> list[Path]:
    """One file of each kind that is read: sizes, orientations, gray, CMYK, transparency, palettes, 16 bits."""
    rng = np.random.default_rng(0)

    def pixels(height, width, channels=3):
        small = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, channels), np.uint8)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)

    files = []

    def save(name, image, **options):
        image.save(folder / name, **options)
        files.append(folder / name)

    for height, width in ((20, 30), (65, 47), (130, 97), (301, 511), (700, 300)):
        save(f"{height}.jpg", Image.fromarray(pixels(height, width)))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(f"exif{orientation}.jpg", Image.fromarray(pixels(200, 130)), exif=exif)
        save(f"exif{orientation}.png", Image.fromarray(pixels(40, 30, 4)), exif=exif)
    save("gray.jpg", Image.fromarray(pixels(99, 77)).convert("L"))
    save("cmyk.jpg", Image.fromarray(pixels(99, 77)).convert("CMYK"))
    save("gray.png", Image.fromarray(pixels(99, 77)).convert("L"))
    save("palette.png", Image.fromarray(pixels(99, 77)).convert("P"))
    save("rgba.png", Image.fromarray(pixels(99, 77, 4)))
    save("gray_alpha.png", Image.fromarray(pixels(99, 77, 4)).convert("LA"))
    save("rgb.webp", Image.fromarray(pixels(99, 77)))
    save("rgba.webp", Image.fromarray(pixels(99, 77, 4)), lossless=True)
    save("rgb.bmp", Image.fromarray(pixels(99, 77)))
    return files


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("crop_ratio", [1.0, 0.8])
def test_pixels_are_those_of_the_lab(recognizer, tmp_path, resize, crop_ratio):
    recognize = recognizer(resize=resize, crop_ratio=crop_ratio)
    for file in photos(tmp_path):
        for box in (None, (3, 5, 17, 12)):
            path = f"{file}#xywh=3,5,17,12" if box else file
            expected = pad_to_center(read_resized(path, recognize.resized, resize), recognize.resized, (32, 24))
            actual = recognize.prepare(predict._Source(str(file)), box)
            np.testing.assert_array_equal(actual, expected, err_msg=str(path))


def test_bytes_paths_and_arrays_give_the_same(recognizer, write_photo, tmp_path):
    file = write_photo(tmp_path / "a.png", 50, 40)
    array = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    rows = recognizer()([file, str(file), file.read_bytes(), array])
    assert [row["image"] for row in rows] == [0, 1, 2, 3]
    assert len({(row["product"], row["probability"], row["error"]) for row in rows}) == 1


def test_bad_images_have_a_reason_and_spare_the_others(recognizer, write_photo, tmp_path):
    file = write_photo(tmp_path / "a.jpg", 50, 40)
    jpeg = file.read_bytes()
    boxes = [None, None, None, None, None, None, [(0, 0, 9, 9), (99, 0, 5, 5), "abcd"], []]
    images = [b"", b"text", jpeg[:400], tmp_path / "none.jpg", np.zeros((3, 3), np.uint8), tmp_path, file, file]
    rows = recognizer()(images, boxes)
    assert [row["error"] for row in rows] == [
        "zero bytes",
        "neither JPEG, PNG, WebP nor BMP",
        "a truncated or damaged JPEG of 400 bytes",
        "No such file or directory",
        "an array uint8 (3, 3), not uint8 (height, width, 3)",
        "Is a directory",
        None,
        "the box lies outside of the image",
        "a box is not four numbers x, y, width, height",
    ]
    assert [row["box"] for row in rows[6:]] == [(0, 0, 9, 9), (99, 0, 5, 5), "abcd"]
    assert all((row["product"] is None) == (row["error"] is not None) for row in rows)


def test_known_and_p_values_are_those_of_the_open_set(recognizer, write_photo, tmp_path):
    scores = np.linspace(0.33, 0.36, 99)
    recognize = recognizer(open_set=OpenSet(2.0, np.float32(scores)).as_json() | {"reject": 0.05})
    open_set = OpenSet.from_json(recognize.card["open_set"])
    files = [write_photo(tmp_path / f"{seed}.png", 9, 9, seed) for seed in range(20)]
    for reject in (None, 0.0, 0.5):
        rows = recognize(files, reject=reject)
        values = np.array([row["score"] for row in rows], np.float32)
        assert [row["p_value"] for row in rows] == open_set.p_values(values).tolist()
        assert [row["known"] for row in rows] == open_set.known(values, 0.05 if reject is None else reject).tolist()
    probabilities = np.array([p for _, p in sorted(rows[0]["top_k"])])
    raw = np.array([p for _, p in sorted(recognizer()(files[:1])[0]["top_k"])])
    np.testing.assert_allclose(probabilities, raw**0.5 / (raw**0.5).sum(), rtol=1e-6)


def test_a_fixed_batch_is_filled(recognizer, write_photo, tmp_path):
    files = [write_photo(tmp_path / f"{seed}.png", 9, 9, seed) for seed in range(9)]
    rows = recognizer(batch=4)(files)
    assert [row["embedding"].tolist() for row in rows] == [row["embedding"].tolist() for row in recognizer()(files)]


def test_numbers_out_of_range_are_refused(recognizer):
    with pytest.raises(ValueError, match="reject=1"):
        recognizer()([b""], reject=1)
    with pytest.raises(ValueError, match="1 lists of boxes for 2 images"):
        recognizer()([b"", b""], boxes=[None])


def test_command_line_prints_tables(recognizer, write_photo, tmp_path, capsys):
    recognizer()
    file = write_photo(tmp_path / "a.png", 50, 40)
    arguments = [str(file), f"{file}#xywh=1,2,30,20", "--folder", str(tmp_path), "--top-k", "2"]
    assert predict.main(arguments) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header == "path,known,p_value,score,top1,p1,top2,p2,error"
    assert first.startswith(f"{file},,,0.")
    assert second.startswith(f'"{file}#xywh=1,2,30,20",,,0.')
    assert predict.main([str(file), "none.jpg", "--folder", str(tmp_path), "--format", "json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (rows[0]["error"], rows[1]["error"]) == (None, "No such file or directory")
    assert len(rows[0]["embedding"]) == 3


@pytest.mark.slow
def test_it_imports_nothing_of_the_lab(tmp_path):
    shutil.copy(predict.__file__, tmp_path)
    code = "import sys, predict; print([n for n in sys.modules if n.split('.')[0] in ('rp2k_lab', 'mindspore', 'PIL')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
