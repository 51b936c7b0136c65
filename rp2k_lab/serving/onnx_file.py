"""Write a network as ONNX with a dynamic batch, and compare it with the network by ONNX Runtime."""

import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab.core.errors import RequestError
from rp2k_lab.model.custom_operators import plain_operators
from rp2k_lab.model.layers import GELU

ONNX = "model.onnx"
OUTPUTS = ("probabilities", "scores", "embeddings")
# Largest allowed difference of an output between the network and its file.
TOLERANCE = 1e-4
# Batches that a file with a dynamic batch is run on.
BATCHES = (1, 3, 17)
# Any two sizes tell which constants hold the batch size; 1 may be folded away.
_TRACED_BATCHES = (2, 3)
_TRACE = "batch_{}.onnx"


class OnnxFile(NamedTuple):
    """What became of model.onnx.

    Attributes:
        difference: largest difference of an output from the network's; None: the file is not written.
        problem: why it is not written, or None.
        fixed_batch: why its batch is a constant, or None.
    """

    difference: float | None = None
    problem: str | None = None
    fixed_batch: str | None = None


class Mismatch(Exception):
    """ONNX Runtime refuses a file, or its outputs are not the network's."""


class ErfFreeGelu(nn.Cell):
    """`layers.GELU` without Erf, which MindSpore's ONNX exporter lacks; the output has the input's shape.

    x·Φ(x) by Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26 (erf to 1.5e-7).  On CPU it takes about
    twice as long as Erf, so training does not use it.
    """

    def construct(self, x):
        z = ops.abs(x) * 0.7071067811865476
        t = ops.div(ops.ones_like(x), z * 0.3275911 + 1.0)
        polynomial = (((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592
        return ops.relu(x) - ops.abs(x) * 0.5 * polynomial * t * ops.exp(-(z * z))


def check_packages(task: str) -> None:
    """Raise RequestError unless the packages of the extra `export` are installed."""
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(f"{task}: needs the package {' and '.join(missing)}\nadd it: pip install rp2k-lab[export]")


@plain_operators()
def write_onnx(network: nn.Cell, images: np.ndarray, expected: Sequence[np.ndarray], batch_size: int = 1) -> OnnxFile:
    """Write model.onnx into the working directory; `network` is changed and cannot be used afterwards.

    Args:
        network: uint8 images (batch, height, width, 3) to the arrays OUTPUTS, with the batch as first dimension.
        images: uint8 (n, height, width, 3), at least 17 and `batch_size`.
        expected: the network's outputs for `images`.
        batch_size: of the file if its batch cannot be dynamic.
    """
    from rp2k_lab.serving.dynamic_batch import NotDynamic, name_outputs, write_dynamic

    _replace_gelu(network)
    file, reason = Path(ONNX), None
    try:
        try:
            first, second = (_trace(network, images[:size]) for size in _TRACED_BATCHES)
            write_dynamic(first, second, file, OUTPUTS)
            return OnnxFile(_compare(file, images, expected, BATCHES))
        except (NotDynamic, Mismatch) as error:
            reason = str(error)
        _trace(network, images[:batch_size]).replace(file)
        name_outputs(file, OUTPUTS)
        return OnnxFile(_compare(file, images, expected, (batch_size,)), fixed_batch=reason)
    except Mismatch as error:
        file.unlink()
        return OnnxFile(problem=str(error))
    except RuntimeError as error:
        operator = re.search(r"Can not find key (\w+) in convert map", str(error))
        reason = f"no form for {operator[1]}" if operator else str(error).strip().splitlines()[0]
        return OnnxFile(problem=f"MindSpore {mindspore.__version__}'s exporter has {reason}")
    finally:
        for part in Path().glob(_TRACE.format("*")):
            part.unlink()


def _replace_gelu(network: nn.Cell) -> None:
    for _, cell in list(network.cells_and_names()):
        for name, child in cell.name_cells().items():
            if isinstance(child, GELU):
                setattr(cell, name, ErfFreeGelu())


def _trace(network: nn.Cell, images: np.ndarray) -> Path:
    """Write the network for batches of this size.

    The outputs keep MindSpore's names: 2.10 renames an output that the graph reads, too, in one of the two places.
    """
    file = Path(_TRACE.format(len(images)))
    mindspore.onnx.export(network, Tensor(images), file_name=str(file), input_names=["images"])
    return file


def _compare(file: Path, images: np.ndarray, expected: Sequence[np.ndarray], batches: Iterable[int]) -> float:
    """Return the largest difference of ONNX Runtime's outputs from the expected ones.

    Args:
        batches: numbers of images in a call, from the first one.

    Raises:
        Mismatch: it is larger than TOLERANCE, or ONNX Runtime refuses the file.
    """
    differences = []
    for count in batches:
        try:
            (outputs,) = run_onnx(file, [images[:count]])
        except Exception as error:  # ONNX Runtime has an exception class for each status
            raise Mismatch(f"ONNX Runtime refuses it ({str(error).strip().splitlines()[0]})") from None
        for output, array in zip(outputs, expected, strict=True):
            if output.shape != array[:count].shape:
                raise Mismatch(f"ONNX Runtime's outputs for {count} images have other shapes")
            differences.append(float(np.abs(output - array[:count]).max()))
    difference = max(differences)
    if not np.all(np.array(differences) <= TOLERANCE):  # NaN, too
        raise Mismatch(f"ONNX Runtime's outputs differ by {difference:.1g}")
    return difference


def run_onnx(file: Path, images: Iterable[np.ndarray]) -> list[list[np.ndarray]]:
    """Return the outputs for each batch, uint8 (batch, height, width, 3), by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # log nothing: errors are raised
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return [session.run(None, {"images": batch}) for batch in images]
