"""Kernels in a process that does more than one thing: `python -m tests.native.kernels_in_threads SCENARIO THREADS`.

Exit code 0: every result had the bits of a first one, computed alone.
"""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.native import batch_norms, convolutions
from tests.native.onednn import Onednn

CONVOLUTION = convolutions.Convolution(2, 1, 24, 32, (15, 14), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), False)
BATCH_NORM = batch_norms.BatchNorm((4, 33, 15, 14))


def digest(onednn: Onednn) -> bytes:
    """Return the bytes of all outputs of a new convolution and a new batch norm."""
    random = np.random.default_rng(0)
    arrays = CONVOLUTION.draw(random)
    with convolutions.steps(onednn, CONVOLUTION) as steps:
        outputs = [output for step in steps for output in step.run(arrays).values()]
    outputs += batch_norms.run_both(onednn, BATCH_NORM, BATCH_NORM.draw(random)).values()
    return b"".join(output.tobytes() for output in outputs)


def repeat(onednn: Onednn, first: bytes, stop: Callable[[int], bool], failures: list[str]) -> None:
    """Compute until `stop(round)`; note what differs or fails."""
    try:
        done = 0
        while not stop(done):
            if digest(onednn) != first:
                failures.append(f"other bits in round {done}")
            done += 1
    except Exception as error:
        failures.append(repr(error))


def many_threads(onednn: Onednn, rounds: int = 20) -> list[str]:
    """Create, run and destroy primitives on six threads at once."""
    first, failures = digest(onednn), []
    arguments = onednn, first, lambda done: done == rounds, failures
    threads = [threading.Thread(target=repeat, args=arguments) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def children(onednn: Onednn, forks: int = 15) -> list[str]:
    """Fork after and during the work of another thread; each child computes on new threads.

    The other thread only runs its primitives: oneDNN itself is not made for a fork while it creates one.
    """
    first, failures, over = digest(onednn), [], threading.Event()
    arrays = CONVOLUTION.draw(np.random.default_rng(0))

    def run_until_over() -> None:
        with convolutions.steps(onednn, CONVOLUTION) as steps:
            running.set()
            while not over.is_set():
                for step in steps:
                    step.run(arrays)

    running, worker = threading.Event(), threading.Thread(target=run_until_over)
    for number in range(forks):
        if number == forks // 2:
            worker.start()
            running.wait()
        if not (child := os.fork()):
            signal.alarm(60)
            os._exit(digest(onednn) != first)
        if status := os.waitpid(child, 0)[1]:
            failures.append(f"child {number} ended with {os.waitstatus_to_exitcode(status)}")
            break
    over.set()
    if worker.ident:
        worker.join()
    return failures


def random_kernels(onednn: Onednn, cases: int = 12) -> list[str]:
    """Compare random convolutions and batch norms with float64."""
    random = np.random.default_rng(2)
    for family in convolutions.FAMILIES:
        for _ in range(cases):
            convolutions.check(onednn, convolutions.draw_convolution(family, random, 24), random)
    for _ in range(3 * cases):
        batch_norms.check(onednn, batch_norms.draw_batch_norm(random), random)
    return []


SCENARIOS = {scenario.__name__: scenario for scenario in (many_threads, children, random_kernels)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        failed = SCENARIOS[sys.argv[1]](Onednn(Path(folder), int(sys.argv[2])))
    sys.exit("\n".join(failed) or 0)
