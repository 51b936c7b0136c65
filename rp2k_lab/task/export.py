"""task=export: write a run's network as MindIR and ONNX, with the normalization in the graph."""

import contextlib
import importlib.util
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.files import make_folder, part_of, replace_folder, restore_folder, sha256_of, sync_tree
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.image import resized_size
from rp2k_lab.device import target
from rp2k_lab.evaluation.predictor import Classifier
from rp2k_lab.model.custom_operators import plain_operators
from rp2k_lab.model.layers import GELU
from rp2k_lab.model.weights.pretrained import normalization
from rp2k_lab.tracking.run_lookup import EarlierRun, find_run
from rp2k_lab.train.trained_models import load_network

log = logging.getLogger(__name__)

MINDIR, ONNX, CLASSES, CARD = FILES = ("model.mindir", "model.onnx", "classes.txt", "model.json")
# Largest allowed difference of a probability between the network and its file.
TOLERANCE = 1e-4


class ExportFailed(Exception):
    """A file cannot be written, or gives other probabilities than the network."""

    exit_code = 1


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


def run(config: Config, folder: Path) -> None:
    """Write the files, read them back, compare, and print a table.

    Args:
        config: the run's restored configuration.
        folder: the output folder if `config.task.output` is not set.

    Raises:
        RequestError: no such run, a checkpoint that does not fit, or an output folder with other files.
        ExportFailed: MindSpore cannot express the network in ONNX (the other files are written), or a file gives other
            probabilities.
    """
    output = config.task.output or folder
    check_replaceable(output)
    # Written and compared on the CPU, whatever the run was trained on: on an H200 the logits differ by more than
    # TOLERANCE, and no machine that exports needs to have the run's device.
    target.set_up(config.device.model_copy(update={"name": "cpu", "precision": "float32"}))
    with StopSignal() as signals, tempfile.TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        earlier = find_run(config.tracking.uri, config.runs[0], Path(downloads))
        classifier = Classifier(load_network(config, earlier)).set_train(False)
        log.info("%s: %s, %d classes", earlier.name, config.model.name, len(earlier.classes))
        images = probe_images((config.task.batch_size, *config.size, 3))
        expected = [classifier(Tensor(batch)).asnumpy() for batch in images]
        with replacing(output) as part, contextlib.chdir(part):  # MindSpore refuses names with spaces or Chinese
            differences: dict[str, float | None] = {MINDIR: write_mindir(classifier, images, expected)}
            signals.check()
            differences[ONNX], problem = write_onnx(classifier, images, expected)
            signals.check()
            write_card(config, earlier, classifier)
    print_closing_table(config, earlier, output, differences)
    if problem:
        raise ExportFailed(f"{ONNX} is not written: {problem}\nthe other files are complete: {output}")


def check_replaceable(output: Path) -> None:
    """Raise RequestError unless `output` is absent, empty or an earlier export."""
    if restore_folder(output.resolve()):
        log.info("%s: an export was killed while it replaced the folder; the former files are back", output)
    if output.is_dir():
        foreign = sorted({file.name for file in output.iterdir()} - set(FILES))
        problem = f"holds other files ({foreign[0]})" if foreign else None
    else:
        problem = "not a folder" if output.exists() else None
    if problem:
        raise RequestError(f"task.output={output}: {problem}\nuse a folder that is new, empty or an earlier export")


def probe_images(shape: tuple[int, int, int, int], batches: int = 4) -> np.ndarray:
    """Return test images, uint8 (batches, *shape): noise around a random color, with a random contrast."""
    rng = np.random.default_rng(0)
    color = rng.uniform(0, 255, (batches, shape[0], 1, 1, 3))
    contrast = rng.uniform(0, 128, (batches, shape[0], 1, 1, 1))
    return np.clip(color + contrast * rng.normal(size=(batches, *shape)), 0, 255).astype(np.uint8)


@contextlib.contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """Yield a new folder; after the block, its FILES replace `output` in one step that outlives a power cut.

    The yielded folder is on the system's disk: MindSpore sets permissions, which exFAT refuses.
    """
    output = output.resolve()  # the folder that a link leads to is replaced, not the link
    make_folder(output.parent)
    part = part_of(output)
    try:
        with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as scratch:
            yield Path(scratch)
            shutil.rmtree(part, ignore_errors=True)  # of a killed process with the same id, as in a container
            part.mkdir()
            for name in FILES:
                if (Path(scratch) / name).exists():
                    shutil.copyfile(Path(scratch) / name, part / name)  # MindSpore's are read-only
        sync_tree(part)
        replace_folder(part, output)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@plain_operators()
def write_mindir(classifier: nn.Cell, images: np.ndarray, expected: list[np.ndarray]) -> float:
    """Write model.mindir into the working directory, read it back and return the largest difference."""
    mindspore.export(classifier, Tensor(images[0]), file_name=MINDIR, file_format="MINDIR")
    graph = nn.GraphCell(mindspore.load(MINDIR))
    difference = largest_difference([graph(Tensor(batch)).asnumpy() for batch in images], expected)
    if not difference <= TOLERANCE:
        raise ExportFailed(f"{MINDIR} differs by {difference:.1g} from the network's probabilities; nothing is written")
    return difference


@plain_operators()
def write_onnx(classifier: nn.Cell, images: np.ndarray, expected: list[np.ndarray]) -> tuple[float | None, str | None]:
    """Write model.onnx into the working directory; `classifier` is changed and cannot be used afterwards.

    Returns:
        (largest difference, or None without ONNX Runtime; problem, or None if the file is written).
    """
    names = {"input_names": ["images"], "output_names": ["probabilities"]}
    for _, cell in list(classifier.cells_and_names()):
        for name, child in cell.name_cells().items():
            if isinstance(child, GELU):
                setattr(cell, name, ErfFreeGelu())
    try:
        mindspore.onnx.export(classifier, Tensor(images[0]), file_name=ONNX, **names)
    except RuntimeError as error:
        operator = re.search(r"Can not find key (\w+) in convert map", str(error))
        reason = f"no form for {operator[1]}" if operator else str(error).strip().splitlines()[0]
        return None, f"MindSpore {mindspore.__version__}'s exporter has {reason}"
    if importlib.util.find_spec("onnxruntime") is None:
        return None, None
    try:
        difference = largest_difference(run_onnx(Path(ONNX), images), expected)
    except Exception as error:  # ONNX Runtime has an exception class for each status
        problem = f"ONNX Runtime refuses it ({str(error).strip().splitlines()[0]})"
    else:
        problem = None if difference <= TOLERANCE else f"ONNX Runtime's probabilities differ by {difference:.1g}"
    if problem:
        Path(ONNX).unlink()
        return None, problem
    return difference, None


def run_onnx(file: Path, images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return the probabilities of each batch (batch, height, width, 3) by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # log nothing: errors are raised
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return [session.run(None, {"images": batch})[0] for batch in images]


def largest_difference(actual: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Return the largest absolute difference between two lists of arrays; NaN if one holds a NaN."""
    return float(np.abs(np.concatenate(actual) - np.concatenate(expected)).max())


def write_card(config: Config, earlier: EarlierRun, classifier: nn.Cell) -> None:
    """Write classes.txt and model.json into the working directory."""
    Path(CLASSES).write_text("\n".join(earlier.classes) + "\n", encoding="utf-8")
    Path(CARD).write_text(json.dumps(card(config, earlier, classifier), indent=2, ensure_ascii=False) + "\n", "utf-8")


def card(config: Config, earlier: EarlierRun, classifier: nn.Cell) -> dict[str, Any]:
    """Return the card: how to use the files, and where they come from."""
    batch, (height, width), classes = config.task.batch_size, config.size, len(earlier.classes)
    counters = ("moving_mean", "moving_variance", "step")
    weights = [p for p in classifier.get_parameters() if p.name.rpartition(".")[2] not in counters]
    mean, std = normalization(config.model, config.dataset)
    return {
        "architecture": config.model.model_dump(mode="json"),
        "parameters": sum(parameter.size for parameter in weights),
        "size": [height, width],
        "resize": config.resize,
        "crop_ratio": config.crop_ratio,
        "input": {"name": "images", "dtype": "uint8", "layout": "NHWC, RGB", "shape": [batch, height, width, 3]},
        "output": {"name": "probabilities", "dtype": "float32", "layout": "NC", "shape": [batch, classes]},
        "preparation": preparation(config),
        "normalization": {"where": "in the graph", "mean": mean, "std": std},
        "run": {"id": earlier.run_id, "name": earlier.name},
        "checkpoint": {"file": earlier.checkpoint.name, "sha256": sha256_of(earlier.checkpoint)},
        "mindspore": mindspore.__version__,
    }


def preparation(config: Config) -> list[dict[str, Any]]:
    """Return evaluation's steps from an image file to the network's input."""
    resize = {
        "letterbox": "scaled to fit, sides rounded, in the middle of a black image of this size",
        "stretch": "scaled to this size, whatever the shape",
    }
    scaling = "bilinear (OpenCV's INTER_LINEAR); INTER_AREA where a side shrinks to half or less"
    reduced = "at the least of 1/8, 1/4, 1/2 and 1 of its size (OpenCV's IMREAD_REDUCED_COLOR_…) that need not grow"
    height, width = resized_size(config.size, config.crop_ratio)
    return [
        {
            "step": "decode",
            "how": "uint8 RGB, turned upright as its EXIF says, transparent parts black",
            "jpeg": reduced,
        },
        {"step": config.resize, "size": [height, width], "how": resize[config.resize], "scaling": scaling},
        {"step": "center_crop", "size": list(config.size), "how": "offsets rounded down"},
    ]


def print_closing_table(
    config: Config, earlier: EarlierRun, output: Path, differences: dict[str, float | None]
) -> None:
    """Print each file with its size and largest difference, and how to use it."""
    print(f"\n{'file':14}{'size':>12}  largest difference of a probability from the network's")
    print("-" * 79)
    for name in FILES:
        if (output / name).exists():
            print(f"{name:14}{(output / name).stat().st_size:12,}  {_comparison(name, differences)}".rstrip())
    shape = ", ".join(map(str, (config.task.batch_size, *config.size, 3)))
    print(f"\nrun         {escape_controls(earlier.name)}" + (f", id {earlier.run_id}" if earlier.run_id else ""))
    print(f"folder      {output}")
    if (output / ONNX).exists():
        print(f'next        onnxruntime.InferenceSession("{output / ONNX}").run(None, {{"images": photos}})')
    else:
        print(f'next        mindspore.nn.GraphCell(mindspore.load("{output / MINDIR}"))(mindspore.Tensor(photos))')
    print(f"            photos: uint8 ({shape}), prepared as in {CARD}")


def _comparison(name: str, differences: dict[str, float | None]) -> str:
    if name not in differences:
        return ""
    if differences[name] is None:
        return "not compared: install onnxruntime"
    return f"{differences[name]:.1e} with {'MindSpore' if name == MINDIR else 'ONNX Runtime'}"
