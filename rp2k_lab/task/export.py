"""task=export: write a run's network as MindIR and ONNX, with what recognizes products with it elsewhere."""

import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mindspore
import numpy as np
from mindspore import Tensor, nn

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.files import make_folder, part_of, replace_folder, restore_folder, sha256_of, sync_tree
from rp2k_lab.core.progress import activity
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.image import resized_size
from rp2k_lab.device import target
from rp2k_lab.evaluation.outputs import Outputs
from rp2k_lab.evaluation.predictor import Classifier
from rp2k_lab.model.custom_operators import plain_operators
from rp2k_lab.model.weights.pretrained import normalization
from rp2k_lab.serving.mlflow_model import MODEL_FOLDER, copy_code, save_model
from rp2k_lab.serving.onnx_file import BATCHES, ONNX, TOLERANCE, OnnxFile, check_packages, write_onnx
from rp2k_lab.serving.registry import model_card, recorded_scores, register, registrable_run
from rp2k_lab.task.calibration import calibration_photos
from rp2k_lab.tracking.mlflow_runs import RunInfo
from rp2k_lab.tracking.run_lookup import EarlierRun, find_run
from rp2k_lab.train.trained_models import load_network, load_open_set

log = logging.getLogger(__name__)

MINDIR, CLASSES, CARD, CODE = "model.mindir", "classes.txt", "model.json", "predict.py"
INT8 = "model_int8.onnx"
FILES = (MINDIR, ONNX, INT8, CLASSES, CARD, CODE, MODEL_FOLDER)
# Version of the card; readers of version 1 find all of its keys.
CARD_VERSION = 2
# Share of known images that may be called unknown.
REJECT = 0.05


class ExportFailed(Exception):
    """A file cannot be written, or gives other outputs than the network."""

    exit_code = 1


class Written(NamedTuple):
    """What was written, for the closing table.

    Attributes:
        mindir: largest difference of a probability of model.mindir from the network's.
        onnx: what became of model.onnx.
        notes: further lines.
    """

    mindir: float
    onnx: OnnxFile
    notes: Sequence[str] = ()


def run(config: Config, folder: Path) -> None:
    """Write the files, read them back, compare, and print a table.

    Args:
        config: the run's restored configuration.
        folder: the output folder if `config.task.output` is not set.

    Raises:
        RequestError: no such run, a checkpoint that does not fit, an output folder with other files, or a package is
            missing.
        ExportFailed: MindSpore cannot express the network in ONNX (MindIR, classes and card are written), or a file
            gives other outputs.
    """
    output = config.task.output or folder
    check_replaceable(output)
    check_packages("task=export")
    # Written and compared on the CPU, whatever the run was trained on: on an H200 the logits differ by more than
    # TOLERANCE, and no machine that exports needs to have the run's device.
    target.set_up(config.device.model_copy(update={"name": "cpu", "precision": "float32"}))
    with StopSignal() as signals, tempfile.TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        earlier = find_run(config.tracking.uri, config.runs[0], Path(downloads))
        run = registrable_run(config.tracking.uri, earlier, config.task.register) if config.task.register else None
        photos = calibration_photos(config, earlier) if config.task.int8 else None
        network = Outputs(load_network(config, earlier)).set_train(False)
        log.info("%s: %s, %d classes", earlier.name, config.model.name, len(earlier.classes))
        with replacing(output) as part, contextlib.chdir(part):  # MindSpore refuses names with spaces or Chinese
            written = write_files(config, earlier, network, signals)
            if photos and written.onnx.problem is None:
                written = written._replace(notes=write_int8(*photos))
    print_closing_table(config, earlier, output, written)
    if written.onnx.problem:
        raise ExportFailed(f"{ONNX} is not written: {written.onnx.problem}\nthe other files are complete: {output}")
    if run:
        print(f"registered  {config.task.register}, version {register_export(config, run, output)}")


def write_files(config: Config, earlier: EarlierRun, network: Outputs, signals: StopSignal) -> Written:
    """Write the files into the working directory; `network` cannot be used afterwards."""
    batch_size = config.task.batch_size
    images = probe_images((max(*BATCHES, batch_size), *config.size, 3))
    with activity("compiling the network"):
        expected = [array.asnumpy() for array in network(Tensor(images))]
    with activity(f"writing and checking {MINDIR}"):
        difference = write_mindir(Classifier(network.network), images[:batch_size], expected[0][:batch_size])
    signals.check()
    with activity(f"writing and checking {ONNX}"):
        onnx = write_onnx(network, images, expected, batch_size)
    signals.check()
    write_card(config, earlier, network, onnx)
    if onnx.problem is None:
        copy_code(Path())
        with activity("writing the model for MLflow"):
            save_model(Path(), REJECT)
    return Written(difference, onnx)


@activity(f"quantizing to {INT8}")
def write_int8(images: Sequence[np.ndarray], labels: np.ndarray | None) -> list[str]:
    """Write model_int8.onnx into the working directory; return lines on its loss."""
    from rp2k_lab.serving.int8 import quantize  # imports onnx

    return quantize(images, labels).lines()


def register_export(config: Config, run: RunInfo, output: Path) -> str:
    """Register the exported model and return its version."""
    card = json.loads((output / CARD).read_text("utf-8"))
    classes = (output / CLASSES).read_text("utf-8").removesuffix("\n").split("\n")
    description = model_card(card, classes, run, recorded_scores(config.tracking.uri, run))
    return register(config.tracking.uri, str(config.task.register), run, output, description)


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


def probe_images(shape: tuple[int, int, int, int]) -> np.ndarray:
    """Return test images, uint8 of this shape: noise around a random color, with a random contrast."""
    rng = np.random.default_rng(0)
    color = rng.uniform(0, 255, (shape[0], 1, 1, 3))
    contrast = rng.uniform(0, 128, (shape[0], 1, 1, 1))
    return np.clip(color + contrast * rng.normal(size=shape), 0, 255).astype(np.uint8)


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
                if (Path(scratch) / name).is_dir():
                    shutil.copytree(Path(scratch) / name, part / name, copy_function=shutil.copyfile)
                elif (Path(scratch) / name).exists():
                    shutil.copyfile(Path(scratch) / name, part / name)  # MindSpore's are read-only
        sync_tree(part)
        replace_folder(part, output)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@plain_operators()
def write_mindir(classifier: nn.Cell, images: np.ndarray, expected: np.ndarray) -> float:
    """Write model.mindir into the working directory, read it back and return the largest difference."""
    mindspore.export(classifier, Tensor(images), file_name=MINDIR, file_format="MINDIR")
    graph = nn.GraphCell(mindspore.load(MINDIR))
    difference = float(np.abs(graph(Tensor(images)).asnumpy() - expected).max())
    if not difference <= TOLERANCE:
        raise ExportFailed(f"{MINDIR} differs by {difference:.1g} from the network's probabilities; nothing is written")
    return difference


def write_card(config: Config, earlier: EarlierRun, network: Outputs, onnx: OnnxFile) -> None:
    """Write classes.txt and model.json into the working directory."""
    Path(CLASSES).write_text("\n".join(earlier.classes) + "\n", encoding="utf-8")
    text = json.dumps(card(config, earlier, network, onnx), indent=2, ensure_ascii=False, allow_nan=False)
    Path(CARD).write_text(f"{text}\n", encoding="utf-8")


def card(config: Config, earlier: EarlierRun, network: Outputs, onnx: OnnxFile) -> dict[str, Any]:
    """Return the card: how to use the files, and where they come from.

    `input` and `output` are those of model.mindir; model.onnx has the same input, any number of images in it, and
    `outputs`.
    """
    batch, (height, width), classes = config.task.batch_size, config.size, len(earlier.classes)
    counters = ("moving_mean", "moving_variance", "step")
    weights = [p for p in network.get_parameters() if p.name.rpartition(".")[2] not in counters]
    mean, std = normalization(config.model, config.dataset)
    open_set = load_open_set(earlier)
    return {
        "version": CARD_VERSION,
        "architecture": config.model.model_dump(mode="json"),
        "parameters": sum(parameter.size for parameter in weights),
        "size": [height, width],
        "resize": config.resize,
        "crop_ratio": config.crop_ratio,
        "input": {"name": "images", "dtype": "uint8", "layout": "NHWC, RGB", "shape": [batch, height, width, 3]},
        "output": {"name": "probabilities", "dtype": "float32", "layout": "NC", "shape": [batch, classes]},
        "outputs": {
            "probabilities": "float32 (batch, classes), in the order of classes.txt, before the temperature",
            "scores": "float32 (batch), the larger, the likelier one of the classes",
            "embeddings": "float32 (batch, width), of length 1",
        },
        "batch": {MINDIR: batch, ONNX: batch if onnx.fixed_batch else "any"},
        "open_set": open_set.as_json() | {"reject": REJECT} if open_set else None,
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


def print_closing_table(config: Config, earlier: EarlierRun, output: Path, written: Written) -> None:
    """Print each file with its size and largest difference, and how to use it."""
    print(f"\n{'file':14}{'size':>12}  largest difference of an output from the network's")
    print("-" * 79)
    for name in FILES:
        if (output / name).exists():
            print(f"{name:14}{_size(output / name):12,}  {_comparison(name, written)}".rstrip())
    height, width = config.size
    print(f"\nrun         {escape_controls(earlier.name)}" + (f", id {earlier.run_id}" if earlier.run_id else ""))
    print(f"folder      {output}")
    for note in written.notes:
        print(note)
    if written.onnx.problem is None:
        print(f'next        python "{output / CODE}" photo.jpg')
        print(f'            mlflow models serve -m "{output / MODEL_FOLDER}" --env-manager local')
        return
    print(f'next        mindspore.nn.GraphCell(mindspore.load("{output / MINDIR}"))(mindspore.Tensor(photos))')
    print(f"            photos: uint8 ({config.task.batch_size}, {height}, {width}, 3), prepared as in {CARD}")


def _size(path: Path) -> int:
    """Return the size of a file, or of all files in a folder [bytes]."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _comparison(name: str, written: Written) -> str:
    if name == MINDIR:
        return f"{written.mindir:.1e} with MindSpore"
    if name != ONNX:
        return ""
    calls = "batches of " + " and ".join(map(str, BATCHES)).replace(" and ", ", ", len(BATCHES) - 2)
    if written.onnx.fixed_batch:
        calls = f"a fixed batch: {written.onnx.fixed_batch}"
    return f"{written.onnx.difference:.1e} with ONNX Runtime, {calls}"
