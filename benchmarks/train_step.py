"""The training step with and without the CPU setting of rp2k_lab/__init__.py, side by side.

    python -m benchmarks.train_step [--models resnet18 seresnext50] [--size 64] [--batch-size 32] [--rounds 5]

Two processes a model, one with ONEDNN_MAX_CPU_ISA=AVX2 and one with DEFAULT, take steps in turn.
"""

import argparse
import os
import subprocess
import sys
import time

from benchmarks.timing import interleave, median_interval, ratio_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet18", "seresnext50"])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # how the two processes are started
    options = parser.parse_args()
    if options.serve:
        serve_steps(options.serve, options.size, options.batch_size)
        return
    print(f"training step, {options.size}×{options.size}, batch {options.batch_size}, float32, {os.cpu_count()} cores")
    for model in options.models:
        workers = {isa: _start(isa, model, options) for isa in ("AVX2", "DEFAULT")}
        parts = {isa: (lambda worker=worker: _step(worker)) for isa, worker in workers.items()}
        seconds = interleave(parts, options.rounds)
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
        for isa, values in seconds.items():
            speed, low, high = median_interval(options.batch_size / values)
            print(f"  {model:12} {isa:8} {speed:6.1f} images/s [{low:.1f}, {high:.1f}]")
        print("  " + ratio_line(f"{model:12} AVX2 is faster by", seconds["DEFAULT"] / seconds["AVX2"]), flush=True)


def _start(isa: str, model: str, options) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.train_step", "--serve", model, "--size", str(options.size)]
    command += ["--batch-size", str(options.batch_size)]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    worker = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _step(worker)  # compiles
    return worker


def _step(worker: subprocess.Popen) -> float:
    worker.stdin.write("step\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def serve_steps(name: str, size: int, batch_size: int) -> None:
    """Take a step for each line on stdin and print its seconds."""
    import numpy as np
    from mindspore import Model, Tensor, nn, set_context, set_device

    from rp2k_lab.loss import CrossEntropy
    from rp2k_lab.model import Normalise, create_model

    set_context(mode=0)
    set_device("CPU")
    network = nn.SequentialCell([Normalise((0.5,) * 3, (0.25,) * 3), create_model(name, 100)])
    optimizer = nn.Momentum(network.trainable_params(), 0.01, 0.9, 1e-4)
    step = Model(network, CrossEntropy(0.1), optimizer).train_network
    step.set_train()
    rng = np.random.default_rng(0)
    images = Tensor(rng.integers(0, 256, (batch_size, size, size, 3), np.uint8))
    labels = Tensor(rng.integers(0, 100, batch_size).astype(np.int32))
    for _ in sys.stdin:
        started = time.perf_counter()
        step(images, labels).asnumpy()
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
