"""Compare the training step of each model with another implementation.

    python -m benchmarks.train_step                          against the step without the native kernels
    python -m benchmarks.train_step --against timm [--attention-module FOLDER]
                                                             against PyTorch (the `parity` extra)
    python -m benchmarks.train_step --against images --freeze stage5 --models efficientnet_lite0
                                                             on kept outputs of frozen stages, against images
    [--models resnet18 …] [--size 64] [--batch-size 32] [--rounds 5]

Two processes take turns of one step and three timed ones, since a training runs one after the other: uint8 images,
normalization, forward, loss, backward, SGD with momentum.
"""

import argparse
import datetime
import os
import subprocess
import sys
import time

from benchmarks.timing import interleave, median_interval, ratio_line

OURS = "rp2k-lab"
STEPS = 3  # of a turn
PEERS = {"off": "RP2K_LAB_NATIVE=0", "timm": "timm on PyTorch", "images": "the same with the frozen stages"}


def main() -> None:
    options = parse_arguments()
    if options.serve:
        serve = serve_torch if options.serve == "timm" else serve_mindspore
        serve(options)
        return
    sides = f"{options.size}×{options.size}, batch {options.batch_size}"
    print(f"{datetime.date.today()}: training step, {sides}, float32, {os.cpu_count()} cores; {OURS}, then")
    print(f"{PEERS[options.against]}: images/s, median of {options.rounds} turns each")
    for model in options.models:
        compare(model, options)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", choices=PEERS, default="off")
    parser.add_argument("--models", nargs="+", default=["resnet18", "seresnext50"])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--freeze", default="none", help="the last frozen stage, for --against images")
    parser.add_argument("--attention-module", help="a clone of Jongchan/attention-module, for BAM and CBAM")
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # starts one of the two processes
    return parser.parse_args()


def compare(model: str, options: argparse.Namespace) -> None:
    """Time both implementations and print their speeds and the ratio."""
    workers = {side: start(side, model, options) for side in (OURS, options.against)}
    parts = {side: (lambda worker=worker: step(worker)) for side, worker in workers.items()}
    seconds = interleave(parts, options.rounds)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    speeds = []
    for values in seconds.values():
        speed, low, high = median_interval(options.batch_size / values)
        speeds.append(f"{speed:6.1f} [{low:.1f}, {high:.1f}]")
    ratio = ratio_line("ratio", seconds[options.against] / seconds[OURS])
    print(f"  {model:20} {speeds[0]:>24} {speeds[1]:>24}   {ratio}", flush=True)


def start(side: str, model: str, options: argparse.Namespace) -> subprocess.Popen:
    """Return a process that takes a turn of `side` for each line, after a first one for compilation."""
    command = [sys.executable, "-m", "benchmarks.train_step", "--serve", side, "--models", model]
    command += ["--size", str(options.size), "--batch-size", str(options.batch_size), "--freeze", options.freeze]
    if options.attention_module:
        command += ["--attention-module", options.attention_module]
    environment = dict(os.environ)
    if side == "off":
        environment["RP2K_LAB_NATIVE"] = "0"
    worker = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    step(worker)
    return worker


def step(worker: subprocess.Popen) -> float:
    """Take a turn; return the time of a step (seconds)."""
    worker.stdin.write("step\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def serve_mindspore(options: argparse.Namespace) -> None:
    """Take a turn for each line on stdin, with the optimizer of a run."""
    import numpy as np
    from mindspore import Model, Tensor, set_context, set_device

    from benchmarks.overhead import compose
    from rp2k_lab.model import Front, Rest, WithPreprocessing, create_model
    from rp2k_lab.model.zoo import families
    from rp2k_lab.train.loss_cells import LossCell
    from rp2k_lab.train.loss_functions import smoothed_cross_entropy
    from rp2k_lab.train.updates import Plan, build_optimizer

    set_context(mode=0)
    set_device("CPU")
    (name,), size, batch_size = options.models, options.size, options.batch_size
    network = WithPreprocessing(create_model(name, 100, freeze=options.freeze), (0.5,) * 3, (0.25,) * 3)
    rng = np.random.default_rng(0)
    images = Tensor(rng.integers(0, 256, (batch_size, size, size, 3), np.uint8))
    labels = Tensor(rng.integers(0, 100, batch_size).astype(np.int32))
    if options.freeze != "none" and options.serve == OURS:
        stages = families()[name].stages_up_to(options.freeze)
        images, network = Front(network, stages).set_train(False)(images), Rest(network, stages)
    config = compose(["optimizer=sgd", "optimizer.lr=0.01", "optimizer.weight_decay=1e-4"])
    optimizer, _ = build_optimizer(config.optimizer, config.schedule, network, Plan(1, 10_000, batch_size))

    def loss(logits, labels):
        return smoothed_cross_entropy(logits, labels, 0.1)

    train_step = Model(network, LossCell(loss), optimizer).train_network
    train_step.set_train()
    serve(lambda: train_step(images, labels).asnumpy())


def serve_torch(options: argparse.Namespace) -> None:
    """Do the same with the reference, in PyTorch's default layout and with a thread a core."""
    os.environ.pop("ONEDNN_MAX_CPU_ISA", None)  # rp2k_lab sets it where the native kernels are off
    import torch

    from benchmarks.reference import build_reference

    (name,), size, batch_size = options.models, options.size, options.batch_size
    torch.set_num_threads(os.cpu_count())
    network = build_reference(name, 100, (size, size), options.attention_module).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=1e-4)
    images = torch.randint(0, 256, (batch_size, size, size, 3), dtype=torch.uint8)
    labels = torch.randint(0, 100, (batch_size,))

    def train_step():
        x = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
        loss = torch.nn.functional.cross_entropy(network(x), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    serve(train_step)


def serve(train_step) -> None:
    for _ in sys.stdin:
        train_step()  # fills the caches again, which the other process has emptied
        started = time.perf_counter()
        for _ in range(STEPS):
            train_step()
        print((time.perf_counter() - started) / STEPS, flush=True)


if __name__ == "__main__":
    main()
