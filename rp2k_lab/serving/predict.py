#!/usr/bin/env python3
"""Recognize products with the exported network beside this file: NumPy, OpenCV and ONNX Runtime alone.

    python predict.py photo.jpg 'shelf.jpg#xywh=40,60,120,200' --format json

    from predict import Recognizer
    recognize = Recognizer("exported")
    rows = recognize(["photo.jpg"])                                   # paths, bytes or uint8 RGB arrays
    rows = recognize(["shelf.jpg"], boxes=[[(40, 60, 120, 200)]])     # (x, y, width, height) [pixels]

Reads JPEG, PNG, WebP and BMP.  The photos are prepared as in training: turned upright as their EXIF says, transparent
parts black, scaled as model.json says.
"""

import argparse
import csv
import json
import math
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

_FORMATS = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"BM", "BMP"))
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
_CROP = re.compile(r"#xywh=(\d+),(\d+),(\d+),(\d+)\Z")
_BATCH = 32
_MOST_PIXELS = 2**28


class BadImage(Exception):
    """An image that cannot be read; the message is the reason."""


class Recognizer:
    """The exported network with its classes and its preparation of photos.

    Args:
        folder: the exported folder.
        model: the file of the network in it.
        threads: threads of ONNX Runtime; None: one per core.
    """

    def __init__(self, folder=Path(__file__).parent, model="model.onnx", threads=None):
        folder = Path(folder)
        self.card = json.loads((folder / "model.json").read_text("utf-8"))
        self.classes = (folder / "classes.txt").read_text("utf-8").removesuffix("\n").split("\n")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        self.session = onnxruntime.InferenceSession(folder / model, options, providers=["CPUExecutionProvider"])
        self.size, self.resize = tuple(self.card["size"]), self.card["resize"]
        self.resized = tuple(round(side / self.card["crop_ratio"]) for side in self.size)
        batch = self.session.get_inputs()[0].shape[0]
        self.fixed_batch = batch if isinstance(batch, int) else None
        open_set = self.card.get("open_set")
        self.temperature = open_set["temperature"] if open_set else 1.0
        self.val_scores = np.array(open_set["scores"], np.float32) if open_set else None
        self.reject = open_set["reject"] if open_set else 0.0

    def __call__(self, images, boxes=None, top_k=5, reject=None):
        """Return a dict for each image or, with boxes, for each box, in order.

        Its keys: `image` (position in `images`), `box`, `product`, `probability`, `known`, `p_value`, `score`, `top_k`
        (pairs of product and probability), `embedding` (float32) and `error`.  For an image that cannot be read `error`
        is the reason, and the rest is None; otherwise `error` is None.  Of a network without a record of known images
        `known` and `p_value` are None.

        Args:
            images: paths, bytes of image files, or uint8 RGB arrays (height, width, 3).
            boxes: for each image None, or boxes (x, y, width, height) in the upright image [pixels].
            top_k: number of products in `top_k`.
            reject: share of known images that may be called unknown, [0, 1); None: that of model.json.
        """
        if boxes is not None and len(boxes) != len(images):
            raise ValueError(f"{len(boxes)} lists of boxes for {len(images)} images")
        if reject is not None and not 0 <= reject < 1:
            raise ValueError(f"reject={reject}: not in [0, 1)")
        boxes = boxes if boxes is not None else [None] * len(images)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = [part for each in pool.map(self._prepare, range(len(images)), images, boxes) for part in each]
        inputs = [pixels for _, pixels in parts if pixels is not None]
        outputs = iter(zip(*self.run(np.stack(inputs)), strict=True)) if inputs else iter(())
        return [row if pixels is None else row | self._answer(next(outputs), top_k, reject) for row, pixels in parts]

    def run(self, images):
        """Return (probabilities, scores, embeddings) of prepared images, uint8 (n, *size, 3)."""
        step = self.fixed_batch or _BATCH
        results = []
        for start in range(0, len(images), step):
            batch = images[start : start + step]
            missing = step - len(batch) if self.fixed_batch else 0
            if missing:
                batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.uint8)])
            outputs = self.session.run(["probabilities", "scores", "embeddings"], {"images": batch})
            results.append([output[: len(batch) - missing] for output in outputs])
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]

    def _prepare(self, position, image, boxes):
        """Return (row without an answer, pixels or None) for the boxes of an image, or for all of it."""
        rows = []
        try:
            source = _Source(image)
            problem = None
        except (BadImage, OSError) as error:
            problem = str(error) if isinstance(error, BadImage) else error.strerror or str(error)
        for box in boxes if boxes is not None else [None]:
            row = dict.fromkeys(_KEYS) | {"image": position, "error": problem}
            row["box"] = tuple(box) if isinstance(box, (list, tuple, np.ndarray)) else box
            pixels = None
            if problem is None:
                try:
                    pixels = self.prepare(source, box)
                except BadImage as error:
                    row["error"] = str(error)
            rows.append((row, pixels))
        return rows

    def prepare(self, source, box=None):
        """Return the network's input, uint8 RGB (*size, 3), for an image or a box in it."""
        image = source.part(box, self.resized, self.resize)
        canvas = np.zeros((*self.resized, 3), np.uint8)
        image = _fit(image, self.resized) if self.resize == "letterbox" else _stretch(image, self.resized)
        top, left = ((a - b) // 2 for a, b in zip(self.resized, image.shape[:2], strict=True))
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
        top, left = ((a - b) // 2 for a, b in zip(self.resized, self.size, strict=True))
        return canvas[top : top + self.size[0], left : left + self.size[1]]

    def _answer(self, outputs, top_k, reject):
        """Return the keys of a row that the network's outputs for it give."""
        probabilities, score, embedding = outputs
        if self.temperature != 1:
            logits = np.log(np.maximum(probabilities, 1e-38)) / self.temperature
            probabilities = np.exp(logits - logits.max())
            probabilities /= probabilities.sum()
        order = np.argsort(-probabilities, kind="stable")[: max(1, top_k)]
        top = [(self.classes[label], float(probabilities[label])) for label in order]
        answer = {"product": top[0][0], "probability": top[0][1], "score": float(score), "top_k": top[:top_k]}
        if self.val_scores is not None:
            below = int(np.searchsorted(self.val_scores, score, side="right"))
            # float32, as the lab compares it with the refused share
            p_value = np.float32((1 + below) / (1 + len(self.val_scores)))
            answer |= {"p_value": float(p_value), "known": bool(p_value > (self.reject if reject is None else reject))}
        return answer | {"embedding": embedding}


_KEYS = ("image", "box", "product", "probability", "known", "p_value", "score", "top_k", "embedding", "error")


class _Source:
    """An image: a file's bytes, decoded as large as needed, or pixels."""

    def __init__(self, image):
        self.data, self.kind, self.frame, self.decoded = b"", None, None, {}
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise BadImage(f"an array {image.dtype} {image.shape}, not uint8 (height, width, 3)")
            self.decoded[1] = image
            return
        data = bytes(image) if isinstance(image, (bytes, bytearray, memoryview)) else Path(image).read_bytes()
        self.data, self.kind = data, _format_of(data)
        self.frame = _jpeg_frame(data) if self.kind == "JPEG" else None
        if self.kind == "JPEG" and (self.frame is None or data.rfind(b"\xff\xd9", self.frame[3]) < 0):
            raise BadImage(f"a truncated or damaged JPEG of {len(data)} bytes")
        if self.kind == "PNG" and data.rfind(b"IEND") < 0:
            raise BadImage(f"a truncated or damaged PNG of {len(data)} bytes")
        if self.frame and self.frame[0] * self.frame[1] > _MOST_PIXELS:
            raise BadImage(f"more than {_MOST_PIXELS} pixels")

    def part(self, box, size, resize):
        """Return the image or the box in it, uint8 RGB, at least as large as `size` needs it if the file is."""
        if self.frame is None:
            return self._cut(self._decode(1), box)
        height, width = self.frame[:2]
        start = self.data.find(b"Exif\0\0", 2, self.frame[3])
        turned = start >= 0 and _orientation(self.data[start + 6 : self.frame[3]]) >= 5
        full = (width, height) if turned else (height, width)
        inner = _within(box, *full) if box is not None else None
        if box is not None and inner is None:
            raise BadImage("the box lies outside of the image")
        extent = (height, width) if inner is None else (inner[3], inner[2])
        image = self._decode(_reduction(extent, box is None, size, resize))
        return self._cut(image, box, full)

    def _decode(self, reduction):
        if reduction not in self.decoded:
            self.decoded[reduction] = _decode(self.data, self.kind, self.frame, reduction)
        return self.decoded[reduction]

    @staticmethod
    def _cut(image, box, full=None):
        """Return the pixels that a box in an image of the size `full` touches in the image, which may be reduced."""
        if box is None:
            return image
        full = full or image.shape[:2]
        inner = _within(box, *full)
        if inner is None:
            raise BadImage("the box lies outside of the image")
        x, y, width, height = inner
        scale_y, scale_x = image.shape[0] / full[0], image.shape[1] / full[1]
        rows = slice(math.floor(y * scale_y), math.ceil((y + height) * scale_y))
        columns = slice(math.floor(x * scale_x), math.ceil((x + width) * scale_x))
        return np.ascontiguousarray(image[rows, columns])


def _within(box, height, width):
    """Return the part (x, y, width, height) of a box within an image, or None."""
    try:
        x, y, box_width, box_height = (round(float(value)) for value in box)
    except (TypeError, ValueError, OverflowError):
        raise BadImage("a box is not four numbers x, y, width, height") from None
    left, top = min(max(x, 0), width), min(max(y, 0), height)
    right, bottom = min(max(x + box_width, 0), width), min(max(y + box_height, 0), height)
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def _format_of(data):
    kind = next((name for magic, name in _FORMATS if data.startswith(magic)), None)
    if kind is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "WebP"
    if kind is None:
        raise BadImage("zero bytes" if not data else "neither JPEG, PNG, WebP nor BMP")
    return kind


def _jpeg_frame(data):
    """Return a JPEG's (height, width, components, offset) from its frame header (ITU-T T.81, B.2.2), or None."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            return (height, width, data[at + 9], at) if height and width else None
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _orientation(tiff):
    """Return EXIF's orientation, 1 to 8 (CIPA DC-008, 4.6.4); 1 where it is absent or damaged."""
    if tiff[:2] not in (b"II", b"MM"):
        return 1
    order = "little" if tiff[:2] == b"II" else "big"
    first = int.from_bytes(tiff[4:8], order)
    for at in range(first + 2, first + 2 + 12 * int.from_bytes(tiff[first : first + 2], order), 12):
        if int.from_bytes(tiff[at : at + 2], order) == 0x0112:
            value = int.from_bytes(tiff[at + 8 : at + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def _reduction(extent, turned, size, resize):
    """Return the largest of 8, 4, 2 and 1 that leaves a JPEG's part as large as needed, both ways if EXIF may turn."""
    needed, (height, width) = max if resize == "stretch" else min, size
    scale = needed(height / extent[0], width / extent[1])
    if turned:
        scale = max(scale, needed(height / extent[1], width / extent[0]))
    return next(reduction for reduction in (8, 4, 2, 1) if reduction == 1 or scale * reduction <= 1)


def _decode(data, kind, frame, reduction):
    """Return a file's image, upright, uint8 RGB (height, width, 3), a JPEG at 1/`reduction` of its size."""
    is_cmyk = frame is not None and frame[2] == 4  # always decoded in full
    flags = cv2.IMREAD_COLOR if is_cmyk or reduction == 1 else _REDUCED[reduction]
    buffer = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if kind in ("PNG", "WebP") else None
        if image is not None and image.ndim == 3 and image.shape[2] == 4:
            image = _turn(_over_black(image), data)
        else:  # upright, 8 bits
            image = cv2.imdecode(buffer, flags)
    except cv2.error:
        image = None
    if image is None:
        raise BadImage(f"a truncated or damaged {kind} of {len(data)} bytes")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _over_black(image):
    """Return BGRA over black, rounded as Pillow does it."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    alpha = image[..., 3:].astype(np.int32)
    products = image[..., :3] * alpha * 128 + (128 << 7)
    return ((((products >> 8) + products) >> 8) >> 7).astype(np.uint8)


def _turn(image, data):
    """Return an image upright whose decoder ignores EXIF."""
    marks = (b"eXIf", 4) if data.startswith(b"\x89PNG") else (b"EXIF", 8)
    start = data.find(marks[0])
    orientation = _orientation(data[start + marks[1] :].removeprefix(b"Exif\0\0")) if start >= 0 else 1
    if orientation in (2, 4):
        return cv2.flip(image, 1 if orientation == 2 else 0)
    if orientation in (5, 7):
        image = cv2.transpose(image)
        return image if orientation == 5 else cv2.rotate(image, cv2.ROTATE_180)
    turns = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
    return cv2.rotate(image, turns[orientation]) if orientation in turns else image


def _fit(image, size):
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    return _stretch(image, (min(size[0], max(1, round(height * scale))), min(size[1], max(1, round(width * scale)))))


def _stretch(image, size):
    height, width = size
    skips = max(image.shape[0] / height, image.shape[1] / width) >= 2
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if skips else cv2.INTER_LINEAR)


def _split_crop(path):
    """Return (path, boxes or None) of an argument, which may end with `#xywh=x,y,width,height`."""
    match = _CROP.search(path)
    if match is None or os.path.lexists(path):
        return path, None
    return path[: match.start()], [tuple(map(int, match.groups()))]


def main(arguments=None):
    """Print a row for each photo; return 1 if one of them cannot be read."""
    parser = argparse.ArgumentParser(description="Recognize products with an exported network.")
    parser.add_argument("photos", nargs="+", help="files, or parts of files: photo.jpg#xywh=x,y,width,height")
    parser.add_argument("--folder", default=Path(__file__).parent, help="the exported folder; default: this file's")
    parser.add_argument("--model", default="model.onnx", help="model.onnx or model_int8.onnx")
    parser.add_argument("--format", choices=("csv", "json"), default="csv", help="json has the embeddings as well")
    parser.add_argument("--top-k", type=int, default=5, help="number of products listed for each photo")
    parser.add_argument("--reject", type=float, help="share of known images that may be called unknown, [0, 1)")
    options = parser.parse_args(arguments)
    recognizer = Recognizer(options.folder, options.model)
    has_error, writer = False, csv.writer(sys.stdout, lineterminator="\n")
    k = max(1, min(options.top_k, len(recognizer.classes)))
    if options.format == "csv":
        names = [f"{name}{i}" for i in range(1, k + 1) for name in ("top", "p")]
        writer.writerow(["path", "known", "p_value", "score", *names, "error"])
    for start in range(0, len(options.photos), _BATCH):
        photos = options.photos[start : start + _BATCH]
        files, boxes = zip(*map(_split_crop, photos), strict=True)
        for path, row in zip(photos, recognizer(files, boxes, k, options.reject), strict=True):
            has_error |= row["error"] is not None
            if options.format == "json":
                embedding = None if row["embedding"] is None else row["embedding"].tolist()
                print(json.dumps({"path": path} | row | {"embedding": embedding}, ensure_ascii=False))
            else:
                top = [value for pair in row["top_k"] or [("", "")] * k for value in pair]
                values = [row["known"], row["p_value"], row["score"], *top, row["error"]]
                writer.writerow([path, *("" if value is None else value for value in values)])
    return int(has_error)


if __name__ == "__main__":
    sys.exit(main())
