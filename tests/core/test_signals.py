"""Signals in a process of its own: what pytest's own process does with them is not ours."""

import signal
import subprocess
import sys

import pytest

from rp2k_lab import PROJECT

PROGRAM = """
import os, signal, sys, time
from rp2k_lab.core.errors import Interrupted
from rp2k_lab.core.signals import StopSignal, claim_sigint, claim_sigterm
if "claim" in sys.argv:
    claim_sigint()
    claim_sigterm()
if "library" in sys.argv:  # a library that takes SIGINT for itself, as MindSpore does while a graph runs
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


def start(*words):
    command = [sys.executable, "-c", PROGRAM, *words]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process):
    """Its stderr, once it has ended."""
    try:
        return process.communicate(timeout=10)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


@pytest.mark.parametrize(
    "words", [["watch"], ["claim", "watch"], ["claim", "watch", "late"], ["claim", "library", "watch"]]
)
def test_ctrl_c_is_told_from_a_schedulers_stop(words):
    process = start(*words)
    process.send_signal(signal.SIGINT)
    err = ended(process)
    assert process.returncode == 130
    assert "stopping after the step" in err


def test_a_schedulers_stop_gets_its_own_exit_code():
    process = start("claim", "watch")
    process.send_signal(signal.SIGTERM)
    ended(process)
    assert process.returncode == 75


def test_outside_a_watch_a_claimed_ctrl_c_is_a_keyboard_interrupt():
    process = start("claim")
    process.send_signal(signal.SIGINT)
    ended(process)
    assert process.returncode == 99


def test_outside_a_watch_a_claimed_schedulers_stop_has_its_exit_code_too():
    process = start("claim")
    process.send_signal(signal.SIGTERM)
    ended(process)
    assert process.returncode == 75


@pytest.mark.parametrize("words", [["watch", "stay"], ["claim", "watch", "stay"]])
def test_a_second_signal_ends_the_process_at_once(words):
    process = start(*words)
    process.send_signal(signal.SIGINT)
    process.stderr.readline()  # the line break after the bar
    assert "once more" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    ended(process)
    assert process.returncode == 130
