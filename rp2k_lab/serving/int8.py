"""Quantize an exported network to 8-bit integers, and measure what that costs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from rp2k_lab.evaluation.intervals import wilson_interval
from rp2k_lab.serving.onnx_file import ONNX, run_onnx

INT8 = "model_int8.onnx"
FILES = (ONNX, INT8)
# Enough for the ranges of the activations (Wu et al., arXiv 2004.09602, use 1024 of ImageNet's 1.28 million).
_MOST_IMAGES = 1024
_BATCH = 16
# A scale for each channel needs 13 or later; MindSpore 2.10 writes 11.
_OPSET = 17
# Softmax, norms and the embedding at the end take no time, and stay exact.
_OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "Add", "Clip", "MaxPool", "Concat"]


class Loss(NamedTuple):
    """What quantization changed, on photos that it was not calibrated with.

    Attributes:
        calibrated: number of photos for the ranges.
        measured: number of photos of the comparison.
        agreeing: of these, with the same first product.
        correct: of these, right by the float network and by the quantized one; None: without labels.
    """

    calibrated: int
    measured: int
    agreeing: int
    correct: tuple[int, ...] | None

    def lines(self) -> list[str]:
        """Return the text for the closing table."""
        text = f"{_share(self.agreeing, self.measured)} have the same first product, calibrated on {self.calibrated}"
        lines = [f"int8        {text} other photos"]
        if self.correct:
            before, after = (_share(count, self.measured) for count in self.correct)
            lines.append(f"            top-1 {before} before, {after} after")
        return lines


def _share(count: int, total: int) -> str:
    low, high = wilson_interval(count, total)
    return f"{100 * count / total:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {total}"


def quantize(images: Sequence[np.ndarray], labels: np.ndarray | None) -> Loss:
    """Write model_int8.onnx beside model.onnx in the working directory, and return its loss.

    Args:
        images: prepared ones, uint8 (height, width, 3), in random order, two or more: every second one is for the
            ranges, the others are for the comparison.
        labels: int (images,); None: unknown.
    """
    calibrated, measured = images[: 2 * _MOST_IMAGES : 2], images[1 : 2 * _MOST_IMAGES : 2]
    prepared = Path("prepared.onnx")
    try:
        onnx.save(onnx.version_converter.convert_version(onnx.load(ONNX), _OPSET), prepared)
        quant_pre_process(prepared, prepared, skip_symbolic_shape=True)  # joins convolutions and batch norms
        quantize_static(
            prepared,
            INT8,
            _Reader(calibrated),
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        prepared.unlink(missing_ok=True)
    top = [np.concatenate([part[0].argmax(1) for part in run_onnx(Path(name), _batches(measured))]) for name in FILES]
    correct = None
    if labels is not None:
        correct = tuple(int((each == labels[1 : 2 * _MOST_IMAGES : 2]).sum()) for each in top)
    return Loss(len(calibrated), len(measured), int((top[0] == top[1]).sum()), correct)


def _batches(images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    for start in range(0, len(images), _BATCH):
        yield np.stack(images[start : start + _BATCH])


class _Reader(CalibrationDataReader):
    """The batches for the ranges."""

    def __init__(self, images: Sequence[np.ndarray]):
        self._batches = _batches(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}
