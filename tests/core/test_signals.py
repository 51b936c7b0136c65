"""Signals, each test in a separate process."""

import signal
import subprocess
import sys

import pytest

from rp2k_lab import PROJECT

pytestmark = pytest.mark.slow

PROGRAM = """
import os, signal, sys, time
from rp2k_lab.core.errors import Interrupted
from rp2k_lab.core.signals import StopSignal, claim_sigint, claim_sigterm
if "claim" in sys.argv:
    claim_sigint()
    claim_sigterm()
if "library" in sys.argv:  # a library that handles SIGINT, as MindSpore does while a graph runs
    signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
try:
    if "watch" in sys.argv:
        with StopSignal() as watch:
            if "late" in sys.argv:
                signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
            print("ready", flush=True)
            while watch.signum is None:
                time.sleep(0.01)
            if "stay" in sys.argv:
                time.sleep(60)
            watch.check()
    else:
        print("ready", flush=True)
        for _ in range(6000):
            time.sleep(0.01)  # a signal just before a single long sleep would act after it
except Interrupted as error:
    sys.exit(error.exit_code)
except KeyboardInterrupt:
    sys.exit(99)
"""


def start(*options):
    command = [sys.executable, "-c", PROGRAM, *options]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def wait_for_end(process):
    """Wait until the process has ended and return its stderr."""
    try:
        return process.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


@pytest.mark.parametrize(
    "options", [["watch"], ["claim", "watch"], ["claim", "watch", "late"], ["claim", "library", "watch"]]
)
def test_ctrl_c_stops_with_130(options):
    process = start(*options)
    process.send_signal(signal.SIGINT)
    err = wait_for_end(process)
    assert process.returncode == 130
    assert "stopping after the current step" in err


def test_sigterm_stops_with_75():
    process = start("claim", "watch")
    process.send_signal(signal.SIGTERM)
    wait_for_end(process)
    assert process.returncode == 75


def test_claimed_ctrl_c_without_stop_signal_raises_keyboard_interrupt():
    process = start("claim")
    process.send_signal(signal.SIGINT)
    wait_for_end(process)
    assert process.returncode == 99


def test_claimed_sigterm_without_stop_signal_exits_with_75():
    process = start("claim")
    process.send_signal(signal.SIGTERM)
    wait_for_end(process)
    assert process.returncode == 75


@pytest.mark.parametrize("options", [["watch", "stay"], ["claim", "watch", "stay"]])
def test_second_signal_ends_the_process_at_once(options):
    process = start(*options)
    process.send_signal(signal.SIGINT)
    process.stderr.readline()  # the line break after the progress bar
    assert "press Ctrl-C again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    wait_for_end(process)
    assert process.returncode == 130
