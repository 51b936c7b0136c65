"""Latency of an exported network: the bare ONNX Runtime call, predict.py, and the model of MLflow over HTTP.

python -m benchmarks.serving --model resnet18 --size 224 --rounds 50
"""

import argparse
import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil

from benchmarks.timing import interleave, ratio_line

CLASSES = 100
# Sides of the photos' crops [pixels]: like those of a shelf photo's detector.
PHOTO = (360, 200)
BARE, SCRIPT, HTTP = SIDES = ("ONNX Runtime", "predict.py", "HTTP")


def main() -> None:
    """Print p50 and p95 of each side, and the ratios of the others to the bare call."""
    parser = argparse.ArgumentParser(description="Time an exported network: ONNX Runtime, predict.py, HTTP.")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--width-multiplier", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--photos", type=int, nargs="+", default=[1, 32], help="numbers of photos in a request")
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as folder:
        export(options, Path(folder))
        with serving(Path(folder) / "mlflow_model") as address:
            for count in options.photos:
                measure(options, Path(folder), address, count)


def export(options: argparse.Namespace, folder: Path) -> None:
    """Write what predict.py and MLflow need of a network with random weights, in another process."""
    code = (
        "import rp2k_lab, sys; from benchmarks.serving import write_export; "
        "write_export(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])"
    )
    arguments = [options.model, str(options.width_multiplier), str(options.size), str(folder)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


def write_export(model: str, width_multiplier: float, size: int, folder: str) -> None:
    """Write the files of task=export, without MindIR."""
    from mindspore import Tensor, set_context, set_device

    from rp2k_lab.evaluation.outputs import Outputs
    from rp2k_lab.model import WithPreprocessing, create_model
    from rp2k_lab.serving.mlflow_model import copy_code, save_model
    from rp2k_lab.serving.onnx_file import BATCHES, write_onnx
    from rp2k_lab.task.export import probe_images

    set_context(mode=0)
    set_device("CPU")
    images = probe_images((max(BATCHES), size, size, 3))
    network = create_model(model, CLASSES, width_multiplier=width_multiplier)
    outputs = Outputs(WithPreprocessing(network, (0.5,) * 3, (0.25,) * 3)).set_train(False)
    os.chdir(folder)
    written = write_onnx(outputs, images, [array.asnumpy() for array in outputs(Tensor(images))])
    if written.difference is None:
        raise SystemExit(f"{model}: {written.problem}")
    card = {"size": [size, size], "resize": "letterbox", "crop_ratio": 1.0, "open_set": None}
    Path("model.json").write_text(json.dumps(card), "utf-8")
    Path("classes.txt").write_text("".join(f"product {i}\n" for i in range(CLASSES)), "utf-8")
    copy_code(Path())
    save_model(Path(), None)


@contextlib.contextmanager
def serving(model: Path) -> Iterator[str]:
    """Yield the address of `mlflow models serve` for a model, one process, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"  # of uvicorn
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "PATH": path},
        cwd=model.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # in this session: Linux shares busy cores out among sessions
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit("mlflow models serve ended") from None
                time.sleep(0.2)  # it does not signal that it listens
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        for process in (*psutil.Process(server.pid).children(recursive=True), server):
            process.kill()
        server.wait()


def measure(options: argparse.Namespace, folder: Path, address: str, count: int) -> None:
    """Print the latencies of requests with `count` photos."""
    seconds = interleave(sides(folder, address, count), options.rounds)
    unit = "photo" if count == 1 else "photos"
    print(f"{count} {unit}, {options.model} at {options.size} pixels")
    for name, values in seconds.items():
        p50, p95 = np.percentile(1000 * values, [50, 95])
        print(f"  {name:14} p50 {p50:7.1f} ms, p95 {p95:7.1f} ms")
    for name in (SCRIPT, HTTP):
        print("  " + ratio_line(f"{name} / {BARE}, {count} {unit}:", seconds[name] / seconds[BARE]), flush=True)


def sides(folder: Path, address: str, count: int) -> dict[str, Callable[[], float]]:
    """Return a function for each side that answers the same photos once, and returns its seconds."""
    import cv2

    from rp2k_lab.serving.predict import Recognizer

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 12, 8, 3), np.uint8)
    photos = [cv2.imencode(".jpg", cv2.resize(each, PHOTO[::-1], interpolation=cv2.INTER_CUBIC))[1] for each in small]
    files = [photo.tobytes() for photo in photos]
    recognizer = Recognizer(folder)
    size = recognizer.size
    images = rng.integers(0, 256, (count, *size, 3), np.uint8)
    rows = [{"image": base64.b64encode(file).decode()} for file in files]
    body = json.dumps({"dataframe_records": rows}).encode()

    def ask() -> None:
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            assert len(json.loads(answer.read())["predictions"]) == count

    def timed(call: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            call()
            return time.perf_counter() - started

        run()  # the first call allocates
        return run

    parts = (lambda: recognizer.run(images), lambda: recognizer(files), ask)
    return dict(zip(SIDES, map(timed, parts), strict=True))


if __name__ == "__main__":
    main()
