"""Compare evaluation with bare forward passes, and an ensemble with flip TTA with the sum of its parts.

    python -m benchmarks.evaluate [--models resnet18 resnet50 seresnet50] [--rounds 6] [--photos 256]
        [overrides, e.g. size=96 crop_ratio=0.875]

Bare: only the network's forward pass, on uint8 batches in memory, with results as arrays.  Evaluation: from image files
to the top 5, as in task=evaluate.  Ensemble: all networks on both views in one pass, as in task=ensemble.  Its parts:
an evaluation by each network, twice for the two views; also the stricter sum of bare passes, without reading files.
The measurements alternate within a round; networks have initial weights.

    python -m benchmarks.evaluate --against [--models …] [--rounds 6] [--size 64] [--batch-size 32]
        [--attention-module FOLDER]

Evaluation of batches in memory beside PyTorch (the `parity` extra) and ONNX Runtime, which runs the file of
task=export: three processes in turn, with the same weights and images, from bytes to probabilities.
"""

import argparse
import contextlib
import datetime
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.timing import interleave, median_interval, ratio_line

ENSEMBLE = "ensemble, flip"
SIDES = ("rp2k-lab", "PyTorch", "ONNX Runtime")
CLASSES, BATCHES = 100, 4
# Largest difference of a logit, its image's mean subtracted, between two sides.
TOLERANCE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "seresnet50"])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--photos", type=int, default=256, help="images from the start of the test split")
    parser.add_argument("--against", action="store_true", help="beside PyTorch and ONNX Runtime")
    parser.add_argument("--size", type=int, default=64, help="of the images, with --against")
    parser.add_argument("--batch-size", type=int, default=32, help="with --against")
    parser.add_argument("--attention-module", help="a clone of Jongchan/attention-module, for BAM and CBAM")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # starts one of the three processes
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    if options.serve:
        side, folder = options.serve
        SERVERS[side](options, Path(folder))
    elif options.against:
        print(
            f"{datetime.date.today()}: evaluation, {options.size}×{options.size}, batch {options.batch_size}, float32,"
        )
        print(f"{os.cpu_count()} cores; {', '.join(SIDES)}: images/s, median of {options.rounds} alternate rounds")
        for model in options.models:
            compare(model, options)
    else:
        measure(options)


def compare(model: str, options: argparse.Namespace) -> None:
    """Time the three sides on one model; print their speeds and ratios, and whether they agree."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        workers = {}
        for side in ("PyTorch", "rp2k-lab", "ONNX Runtime"):  # the first one's weights are everyone's
            workers[side] = stack.enter_context(started(side, model, options, folder))
        workers = {side: workers[side] for side in SIDES if request(workers[side]) is not None}
        seconds = interleave({s: (lambda w=w: request(w) or 0.0) for s, w in workers.items()}, options.rounds)
        logits = {side: centered(np.load(Path(folder) / f"{side}.npy")) for side in workers}
    print(f"  {model}")
    for side, values in seconds.items():
        median, low, high = median_interval(BATCHES * options.batch_size / values)
        line = f"    {side:14} {median:7.1f} [{low:.1f}, {high:.1f}]"
        if side != SIDES[0]:
            difference = np.abs(logits[side] - logits[SIDES[0]]).max()
            line += "   " + ratio_line("ratio", values / seconds[SIDES[0]]) + f"; logits differ by {difference:.1e}"
            line += "" if difference <= TOLERANCE else ": NOT THE SAME NETWORK"
        print(line, flush=True)


def centered(probabilities: np.ndarray) -> np.ndarray:
    """Return logits whose mean over the classes is 0."""
    logits = np.log(probabilities.astype(np.float64))
    return logits - logits.mean(-1, keepdims=True)


@contextlib.contextmanager
def started(side: str, model: str, options: argparse.Namespace, folder: str):
    """Yield a process that evaluates the batches once for each line, after it has made or read the weights."""
    command = [sys.executable, "-m", "benchmarks.evaluate", "--serve", side, folder, "--models", model]
    command += ["--size", str(options.size), "--batch-size", str(options.batch_size)]
    if options.attention_module:
        command += ["--attention-module", options.attention_module]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for line in worker.stdout:
            if line == "ready\n":
                break
        yield worker
    finally:
        worker.stdin.close()
        worker.wait()


def request(worker: subprocess.Popen) -> float | None:
    """Evaluate once; return its time (seconds), or None if the process has ended."""
    try:
        worker.stdin.write("run\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())
    except (BrokenPipeError, ValueError):
        return None


def serve(side: str, folder: Path, evaluate: Callable[[], np.ndarray]) -> None:
    """Evaluate once and save the probabilities (images, classes); then once for each line, and print the seconds."""
    np.save(folder / f"{side}.npy", evaluate())
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        evaluate()
        print(time.perf_counter() - started, flush=True)


def random_batches(options: argparse.Namespace) -> list[np.ndarray]:
    """Return uint8 images (batch, size, size, 3) for each batch."""
    shape = (BATCHES, options.batch_size, options.size, options.size, 3)
    return list(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def serve_torch(options: argparse.Namespace, folder: Path) -> None:
    """Evaluate by PyTorch; write the weights, with random running statistics."""
    import torch

    from benchmarks.reference import build_reference

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    name, size = options.models[0], (options.size, options.size)
    network = build_reference(name, CLASSES, size, options.attention_module).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), folder / "weights.pth")
    batches = random_batches(options)

    @torch.inference_mode()
    def evaluate():
        results = []
        for images in batches:
            x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
            results.append(torch.softmax(network(x), -1).numpy())
        return np.concatenate(results)

    serve("PyTorch", folder, evaluate)


def load_reference(options: argparse.Namespace, folder: Path):
    """Return our network with the weights that PyTorch's side wrote."""
    from mindspore import set_context, set_device

    from rp2k_lab.model import WithPreprocessing, create_model
    from rp2k_lab.model.weights.torch_names import load_torch_weights
    from rp2k_lab.model.weights.torch_reader import read_torch_file

    set_context(mode=0)
    set_device("CPU")
    network = create_model(options.models[0], CLASSES)
    if problem := load_torch_weights(network, read_torch_file(folder / "weights.pth")).problem():
        raise SystemExit(problem)
    return WithPreprocessing(network, (0.5,) * 3, (0.25,) * 3)


def serve_ours(options: argparse.Namespace, folder: Path) -> None:
    """Evaluate by `Predictor`, as every task does."""
    from rp2k_lab.evaluation.predictor import Member, Predictor, Preprocessing

    member = Member("", load_reference(options, folder), Preprocessing((options.size,) * 2, "stretch", 1.0))
    predictor, batches = Predictor([member], options.batch_size), random_batches(options)

    def evaluate():
        return np.concatenate([average for _, average in predictor([images] for images in batches)])

    serve("rp2k-lab", folder, evaluate)


def serve_onnx(options: argparse.Namespace, folder: Path) -> None:
    """Evaluate the file of task=export by ONNX Runtime; another process writes it."""
    import onnxruntime

    command = [sys.executable, "-m", "benchmarks.evaluate", "--serve", "export", str(folder), *sys.argv[4:]]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = os.cpu_count()
    if not (folder / "model.onnx").exists():
        raise SystemExit(f"{options.models[0]}: no ONNX file")
    session = onnxruntime.InferenceSession(folder / "model.onnx", settings, providers=["CPUExecutionProvider"])
    batches = random_batches(options)

    def evaluate():
        return np.concatenate([session.run(None, {"images": images})[0] for images in batches])

    serve("ONNX Runtime", folder, evaluate)


def export(options: argparse.Namespace, folder: Path) -> None:
    """Write model.onnx as task=export does."""
    from mindspore import Tensor

    from rp2k_lab.evaluation.outputs import Outputs
    from rp2k_lab.serving.onnx_file import BATCHES, write_onnx
    from rp2k_lab.task.export import probe_images

    images = probe_images((max(BATCHES), options.size, options.size, 3))
    with contextlib.chdir(folder):
        network = Outputs(load_reference(options, folder)).set_train(False)
        print(write_onnx(network, images, [array.asnumpy() for array in network(Tensor(images))]))


SERVERS = {"rp2k-lab": serve_ours, "PyTorch": serve_torch, "ONNX Runtime": serve_onnx, "export": export}


def measure(options: argparse.Namespace) -> None:
    """Time bare passes, evaluations and the ensemble; print their speeds and ratios."""
    from benchmarks.overhead import compose
    from rp2k_lab.dataset.photo_index import build_index
    from rp2k_lab.device import target
    from rp2k_lab.evaluation.predictor import Member
    from rp2k_lab.train.build import build_network, preprocessing

    configs = [compose([f"model={name}", *options.overrides]) for name in options.models]
    first = configs[0]
    target.set_up(first.device)
    index = build_index(first.dataset)
    rows = index.split("test")["row"].tolist()[: options.photos // first.batch_size * first.batch_size]
    members = [
        Member(config.model.name, build_network(config, len(index.classes)), preprocessing(config))
        for config in configs
    ]
    bare = {f"bare {m.name}": bare_loop(m, first, index, rows) for m in members}
    single = {f"evaluation {m.name}": evaluation([m], "none", first, index, rows) for m in members}
    parts = bare | single | {ENSEMBLE: evaluation(members, "hflip", first, index, rows)}
    for part in parts.values():
        part()  # compiles
    seconds = interleave(parts, options.rounds)
    height, width = first.size
    print(f"{len(rows)} photos at {height}×{width}, batch {first.batch_size}")
    for name, values in seconds.items():
        median, low, high = median_interval(len(rows) / values)
        print(f"  {name:24} {median:7.1f} photos/s [{low:.1f}, {high:.1f}]")
    alone, evaluated = next(iter(bare)), next(iter(single))
    print("  " + ratio_line("speed of evaluation / bare:", seconds[alone] / seconds[evaluated]))
    for label, names in (("the sum of its parts", single), ("the sum of bare passes", bare)):
        total = 2 * sum(seconds[name] for name in names)
        print("  " + ratio_line(f"time of {ENSEMBLE} / {label}:", seconds[ENSEMBLE] / total))


def bare_loop(member, config, index, rows: list[int]) -> Callable[[], float]:
    """Return a function that times forward passes over batches in memory (seconds)."""
    from rp2k_lab.evaluation.predictor import Classifier, Forward, Predictor
    from rp2k_lab.train.build import batches_for, build_views

    predictor = Predictor([member], config.batch_size)
    batches = [images for (images,) in batches_for(predictor, build_views(predictor, index, 0), rows, config)]
    forward = Forward(Classifier(member.network))

    def run() -> float:
        member.network.set_train(False)
        started = time.perf_counter()
        for images in batches:
            forward(images)
        return time.perf_counter() - started

    return run


def evaluation(members: list, tta: str, config, index, rows: list[int]) -> Callable[[], float]:
    """Return a function that times an evaluation from image files to the top 5 of members and average (seconds)."""
    from rp2k_lab.evaluation.metrics import top_k
    from rp2k_lab.evaluation.predictor import Predictor
    from rp2k_lab.train.build import batches_for, build_views

    predictor = Predictor(members, config.batch_size, tta)
    views = build_views(predictor, index, 0)

    def run() -> float:
        started = time.perf_counter()
        for each, average in predictor(batches_for(predictor, views, rows, config)):
            for probabilities in [average] if len(members) == 1 else [*each, average]:
                top_k(probabilities)
        return time.perf_counter() - started

    return run


if __name__ == "__main__":
    main()
