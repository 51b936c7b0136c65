"""Measure a machine with a GPU: one command, without network, a table and a JSON file.

    python -m benchmarks.gpu [--minutes 4] [--models resnet50 …] [--precisions O2_half_bn …] [--output gpu.json]
                             [--device gpu] [--size 224] [--batch-size 128] [--torch-python PYTHON]
                             [overrides of the runs, e.g. epochs=2]

In this order, as far as the minutes suffice: a training that is killed, resumed, and trained again to compare every
bit; its checkpoints' share of the time; the tracked run against a bare loop; the input pipeline's maximum; then
training steps of every network and precision beside timm on PyTorch (the `parity` extra), and the logits against those
of this machine's CPU.  What is not installed or does not fit into the minutes is named at the end.

PyTorch for CUDA 12 replaces two libraries of the extra `gpu`: install it, timm and NumPy in another environment, and
name its Python with --torch-python.
"""

import argparse
import datetime
import importlib.metadata
import json
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.timing import median_interval
from rp2k_lab import PROJECT
from rp2k_lab.core import environment
from rp2k_lab.device import gpu_libraries

# Ours to PyTorch's: what a user of either would choose for the same purpose.
PEERS = {"O2_half_bn": "AMP, channels last", "O2": "AMP, channels last", "tf32": "TF32", "float32": "float32"}
PRECISIONS = [*PEERS, "O3"]
PARITY_IMAGES = 4
TURNS, STEPS_A_TURN = 6, 5
MAX_SECONDS = 120  # of one part: a network that does not compile must not take the time of all others


@dataclass
class Session:
    """What is measured, with the time that is left.

    Attributes:
        results: one entry a part, for the JSON file.
        left_out: reasons, one a part.
    """

    options: argparse.Namespace
    started: float = field(default_factory=time.monotonic)
    results: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def seconds_left(self) -> float:
        return 60 * self.options.minutes - (time.monotonic() - self.started)

    def part(self, name: str, measure: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a part measures, or None, with a reason in `left_out`."""
        if self.seconds_left() <= 0:
            self.left_out.append(f"{name}: --minutes {self.options.minutes:g} are over")
            return None
        try:
            return measure(*arguments)
        except subprocess.TimeoutExpired:
            self.left_out.append(f"{name}: not done in the time that was left")
        except PartFailed as error:
            self.left_out.append(f"{name}: {error}")
        return None


class PartFailed(Exception):
    """A part's process failed; the text is the error's line."""


def main() -> None:
    options = parse_arguments()
    if options.serve:
        sides = {"rp2k-lab": serve_mindspore, "timm": serve_torch, "cpu": serve_reference}
        print(json.dumps(sides[options.serve](options, options.models[0], options.precisions[0])))
        return
    session = Session(options)
    session.results["machine"] = describe_machine()
    print("\n".join(f"{key:12}{value}" for key, value in session.results["machine"].items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        measure_runs(session, Path(folder))
        measure_steps(session, Path(folder))
    if session.left_out:
        print("\nleft out\n  " + "\n  ".join(session.left_out))
    session.results["left_out"] = session.left_out
    options.output.write_text(json.dumps(session.results, indent=1) + "\n", encoding="utf-8")
    print(f"\n{time.monotonic() - session.started:.0f} s; {options.output}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4)
    first = ["resnet50", "seresnext50", "efficientnet_b0", "swin_tiny"]  # those of the published tables
    names = sorted(file.stem for file in (PROJECT / "conf/model").glob("[a-z]*.yaml"))
    models = [*first, *(name for name in names if name not in first and not name.endswith("_wider"))]
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", default="gpu", choices=["cpu", "gpu", "ascend"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--classes", type=int, default=2388)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # measures one side, in another process
    parser.add_argument("--logits", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", default=[])
    return parser.parse_intermixed_args()


def describe_machine() -> dict[str, str]:
    """Return the card and driver, the processor and the versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        card = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().replace("\n", "; ")
    except (OSError, subprocess.CalledProcessError):
        card = "nvidia-smi finds none"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("mindspore", "numpy"))
    return {
        "date": str(datetime.date.today()),
        "card": card,
        "processor": f"{environment.processor()}, {environment.cores()} cores",
        "versions": versions,
    }


def measure_runs(session: Session, folder: Path) -> None:
    """Measure what surrounds the steps: resuming, checkpoints, callbacks and reading."""
    options = session.options
    resumed = session.part("exact resume and checkpoints", resume_and_verify, session, folder)
    device = [f"device={options.device}", *options.overrides]
    sizes = [f"model={options.models[0]}", f"size={options.size}", f"batch_size={options.batch_size}"]
    overhead = ["--rounds", "2", "--steps", "25", *sizes, *device]
    tracked = session.part("a run against its bare steps", lines_of, session, "overhead", overhead)
    reading = ["--photos", "1024", "--size", str(options.size), "--rounds", "3"]
    pipeline = session.part("input pipeline", lines_of, session, "input_pipeline", reading)
    for name, lines in {"resume": resumed, "run": tracked, "input_pipeline": pipeline}.items():
        if lines:
            session.results[name] = lines
            print(f"\n{name.replace('_', ' ')}\n  " + "\n  ".join(lines), flush=True)


def lines_of(session: Session, benchmark: str, arguments: list[str]) -> list[str]:
    """Return the output of another benchmark."""
    return run_process(session, ["-m", f"benchmarks.{benchmark}", *arguments]).splitlines()


def resume_and_verify(session: Session, folder: Path) -> list[str]:
    """Kill a training after its first checkpoint, resume it, train it again; return what each says."""
    place = [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"hydra.run.dir={folder}/run"]
    command = [f"device={session.options.device}", "epochs=3", *session.options.overrides, *place]
    training = subprocess.Popen([sys.executable, "run.py", *command], cwd=PROJECT, stdout=subprocess.DEVNULL)
    try:
        while not list(folder.glob("run/checkpoints/step-*.json")) and training.poll() is None:
            if session.seconds_left() <= 0:
                raise subprocess.TimeoutExpired("run.py", 0)
            time.sleep(0.02)
    finally:
        training.kill()
        ended = training.wait()
    if ended != -signal.SIGKILL:
        raise PartFailed(f"the training ended with exit code {ended} before it was killed")
    resumed = run_process(session, ["run.py", "runs=last", "task.resume=continue", *place])
    verified = run_process(session, ["run.py", "runs=last", "task.verify=true", place[0], f"hydra.run.dir={folder}/2"])
    waited = [line for line in resumed.splitlines() if line.startswith("training waited")]
    return [*waited, "killed after its first checkpoint, resumed, and trained again:", verified.splitlines()[-1]]


def measure_steps(session: Session, folder: Path) -> None:
    """Time each network and precision, ours beside timm's, and compare the logits with the CPU's."""
    session.results["steps"] = []
    print(f"\n{'training steps':22}{'':12}{'rp2k-lab':>26}{'timm':>26}  ratio   memory  logits off by", flush=True)
    for model in session.options.models:
        reference, peers = folder / f"{model}_cpu.npy", {}
        session.part(f"{model}, logits on the CPU", serve, session, "cpu", model, "float32", reference)
        for precision in session.options.precisions:
            peer = PEERS.get(precision)
            if peer and peer not in peers:
                peers[peer] = session.part(f"{model}, timm, {peer}", serve, session, "timm", model, precision)
            logits = folder / f"{model}_{precision}.npy"
            ours = session.part(f"{model}, {precision}", serve, session, "rp2k-lab", model, precision, logits)
            if ours:
                measured = {"model": model, "precision": precision, "rp2k-lab": ours, "peer": peer}
                measured |= {"timm": peers.get(peer), "logits_off_by": distance(logits, reference)}
                session.results["steps"].append(measured)
                print(row_of(measured), flush=True)


def serve(session: Session, side: str, model: str, precision: str, logits: Path | None = None) -> dict[str, Any]:
    """Return what a process measures for one network and precision."""
    options = session.options
    arguments = ["-m", "benchmarks.gpu", "--serve", side, "--models", model, "--precisions", precision]
    for key in ("device", "size", "batch_size", "classes"):
        arguments += [f"--{key.replace('_', '-')}", str(getattr(options, key))]
    if logits:
        arguments += ["--logits", str(logits)]
    python = options.torch_python if side == "timm" else sys.executable
    return json.loads(run_process(session, arguments, python).splitlines()[-1])


def run_process(session: Session, arguments: list[str], python: str = sys.executable) -> str:
    """Return the output of a Python process; raise PartFailed with the line of its error."""
    command, seconds = [python, *arguments], max(1.0, min(MAX_SECONDS, session.seconds_left()))
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        # MindSpore's error is followed by a page about its own sources.
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
        raise PartFailed((errors or lines)[-1])
    return done.stdout


def distance(logits: Path, reference: Path) -> float | None:
    """Return the largest difference from the CPU's logits, in standard deviations of those; None without them."""
    if not reference.exists():
        return None
    expected = np.load(reference)
    return float(np.abs(np.load(logits) - expected).max() / expected.std())


def row_of(measured: dict[str, Any]) -> str:
    """Return the table's row of a network and precision."""
    ours, peer, off = measured["rp2k-lab"], measured["timm"], measured["logits_off_by"]
    ratio = f"{np.median(ours['images_per_second']) / np.median(peer['images_per_second']):5.2f}" if peer else "    –"
    speeds = f"{speed_of(ours):>26}{speed_of(peer) if peer else '–':>26}"
    parity = "–" if off is None else f"{off:.1e}"
    return f"{measured['model']:22}{measured['precision']:12}{speeds}  {ratio}  {ours['gb']:4.1f} GB  {parity}"


def speed_of(side: dict[str, Any]) -> str:
    median, low, high = median_interval(side["images_per_second"])
    return f"{median:.0f} [{low:.0f}, {high:.0f}]"


def time_turns(step: Callable[[], Any], batch_size: int) -> list[float]:
    """Return the speed of each turn (images/s); `step` returns when its loss has arrived."""
    step(), step()
    speeds = []
    for _ in range(TURNS):
        started = time.perf_counter()
        for _ in range(STEPS_A_TURN):
            step()
        speeds.append(STEPS_A_TURN * batch_size / (time.perf_counter() - started))
    return speeds


def draw_batch(options: argparse.Namespace, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, uint8 (count, size, size, 3); labels, int32 (count,))."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, options.size, options.size, 3), np.uint8)
    return images, rng.integers(0, options.classes, count).astype(np.int32)


def compose_step(options: argparse.Namespace, device: str, model: str, precision: str) -> Any:
    from benchmarks.overhead import compose

    keys = [f"model={model}", f"size={options.size}", f"batch_size={options.batch_size}"]
    return compose([*keys, f"device={device}", f"device.precision={precision}", "optimizer=sgd"])


def serve_mindspore(options: argparse.Namespace, model: str, precision: str) -> dict[str, Any]:
    """Time the training step of a run, and keep the initial network's logits."""
    if options.device == "gpu":
        gpu_libraries.load()  # before MindSpore; `set_up` says what is missing
    from mindspore import Tensor, hal

    from rp2k_lab.device import target
    from rp2k_lab.train.build import build_initial_network, build_model

    config = compose_step(options, options.device, model, precision)
    target.set_up(config.device)
    network = build_initial_network(config, options.classes)
    images, labels = draw_batch(options, options.batch_size)
    plan = SimpleNamespace(
        steps_per_epoch=1000, images_per_step=len(images), labels=labels, num_classes=options.classes
    )
    step = build_model(config, network, plan)[0].train_network
    save_logits(options, network)
    step.set_train()
    batch = Tensor(images), Tensor(labels)

    def train_step() -> None:
        outputs = step(*batch)
        (outputs[0] if isinstance(outputs, tuple) else outputs).asnumpy()  # (loss, overflow, scale) with a loss scale

    speeds = time_turns(train_step, options.batch_size)
    used = hal.max_memory_allocated() if options.device == "gpu" else peak_memory()
    return {"images_per_second": speeds, "gb": used / 1e9}


def serve_reference(options: argparse.Namespace, model: str, _precision: str) -> dict[str, Any]:
    """Keep the logits of the same network on the CPU."""
    from rp2k_lab.device import target
    from rp2k_lab.train.build import build_initial_network

    config = compose_step(options, "cpu", model, "float32")
    target.set_up(config.device)
    save_logits(options, build_initial_network(config, options.classes))
    return {}


def save_logits(options: argparse.Namespace, network: Any) -> None:
    from mindspore import Tensor

    images, _ = draw_batch(options, PARITY_IMAGES)
    np.save(options.logits, network.set_train(False)(Tensor(images)).asnumpy().astype(np.float32))


def serve_torch(options: argparse.Namespace, model: str, precision: str) -> dict[str, Any]:
    """Time the same step of timm's network on PyTorch, as its users run it."""
    try:
        import torch

        from benchmarks.reference import build_reference
    except ImportError as error:
        sys.exit(f"{error.name} is not installed: pip install -e '.[parity]'")
    device, amp = "cuda" if options.device == "gpu" else "cpu", PEERS[precision].startswith("AMP")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.benchmark = True
    layout = torch.channels_last if amp else torch.contiguous_format
    network = build_reference(model, options.classes, (options.size, options.size), None)
    network = network.to(device, memory_format=layout).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=amp and device == "cuda")
    images, labels = (torch.from_numpy(array).to(device) for array in draw_batch(options, options.batch_size))
    labels = labels.long()

    def train_step() -> None:
        x = (images.permute(0, 3, 1, 2).to(memory_format=layout).float() / 255 - 0.5) / 0.25
        with torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16, enabled=amp):
            loss = torch.nn.functional.cross_entropy(network(x), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()

    speeds = time_turns(train_step, options.batch_size)
    used = torch.cuda.max_memory_allocated() if device == "cuda" else peak_memory()
    return {"images_per_second": speeds, "gb": used / 1e9, "torch": torch.__version__}


def peak_memory() -> int:
    """Return the largest memory of this process so far (bytes)."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
