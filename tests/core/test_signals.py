"""Signals, each test in a separate process."""

import contextlib
import signal
import subprocess
import sys
import time

import pytest

from rp2k_lab import PROJECT
from rp2k_lab.core.signals import ENDING, signal_name

PROGRAM = """
import os, resource, signal, sys, time
from rp2k_lab.core.errors import Interrupted
from rp2k_lab.core.signals import StopSignal, claim_signals
if "claim" in sys.argv:
    claim_signals()
if "library" in sys.argv:  # a library that handles SIGINT, as MindSpore does while a graph runs
    signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
if "limit" in sys.argv:
    resource.setrlimit(resource.RLIMIT_CPU, (1, 20))
try:
    if "watch" in sys.argv:
        with StopSignal() as watch:
            if "late" in sys.argv:
                signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
            print("ready", flush=True)
            while watch.signum is None:
                "limit" in sys.argv or time.sleep(0.01)
            if "stay" in sys.argv:
                time.sleep(60)
            ended = time.process_time() + 1.2
            while "limit" in sys.argv and time.process_time() < ended:
                pass
            if "slow" in sys.argv:
                time.sleep(0.3)
            print("saved", flush=True)
            watch.check()
    else:
        print("ready", flush=True)
        for _ in range(6000):
            time.sleep(0.01)  # a signal just before a single long sleep would act after it
except Interrupted as error:
    if "slow" in sys.argv:
        time.sleep(0.3)
    print("closed", flush=True)
    sys.exit(error.exit_code)
except KeyboardInterrupt:
    sys.exit(99)
"""


def start(*options, program=PROGRAM, **settings):
    command = [sys.executable, "-c", program, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=PROJECT, **pipes, **settings)


def started(*options, **settings):
    process = start(*options, **settings)
    assert process.stdout.readline() == "ready\n"
    return process


def wait_for_end(process):
    """Wait until the process has ended; return (stdout, stderr)."""
    try:
        return process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["watch"], ["claim", "watch"], ["claim", "watch", "late"], ["claim", "library", "watch"]]
)
def test_ctrl_c_stops_with_130(options):
    process = started(*options)
    process.send_signal(signal.SIGINT)
    err = wait_for_end(process)[1]
    assert process.returncode == 130
    assert err == "\nstopping after the current step; press Ctrl-C again to stop now\n"


@pytest.mark.slow
@pytest.mark.parametrize("mode", [["watch"], []])
def test_every_signal_that_ends_a_process_stops_it_in_order(mode):
    """With and without a StopSignal: a dropped connection, schedulers, limits, timers, Ctrl-\\, real-time signals."""
    signums = [*(s for s in ENDING if s < signal.SIGRTMIN), signal.SIGRTMIN + 1, signal.SIGRTMAX]
    assert len(signums) == 14
    processes = {signum: start("claim", *mode) for signum in signums}
    for signum, process in processes.items():
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signum)
    for signum, process in processes.items():
        out, err = wait_for_end(process)
        assert (signum, process.returncode) == (signum, 75)
        assert out == ("saved\nclosed\n" if mode else "closed\n")
        assert err.startswith(f"\n{signal_name(signum)}: stopping" if mode else "")


@pytest.mark.slow
@pytest.mark.parametrize("mode", [["watch"], []])
def test_an_ignored_signal_stays_ignored(mode):
    """As with nohup."""
    ignore = "import signal; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGHUP, signal.SIGTERM)]\n"
    process = started("claim", *mode, program=ignore + PROGRAM)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGUSR1)
    wait_for_end(process)
    assert process.returncode == 75


@pytest.mark.slow
@pytest.mark.parametrize("mode", [["watch", "slow"], ["slow"]])
def test_repetitions_of_a_stop_do_not_end_the_process_at_once(mode):
    """A lost terminal sends SIGHUP by the shell and by the kernel; `timeout` and service managers send several."""
    process = started("claim", *mode)
    for signum in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        process.send_signal(signum)
        time.sleep(0.05)
    out, _ = wait_for_end(process)
    assert process.returncode == 75
    assert out.endswith("closed\n")


@pytest.mark.slow
def test_a_limit_of_processor_time_stops_in_order():
    """`ulimit -S -t`: the kernel repeats SIGXCPU after each further second."""
    process = started("claim", "watch", "limit")
    out, err = wait_for_end(process)
    assert process.returncode == 75
    assert out == "saved\nclosed\n"
    assert err.startswith("\nSIGXCPU: stopping")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGXCPU])
def test_a_repetition_after_the_interpreter_has_ended_changes_no_exit_code(signum):
    """Libraries still work then: here the C library reads a character."""
    wait = "import ctypes; libc = ctypes.CDLL(None); libc.on_exit(libc.getchar, None)\n"
    process = started("claim", "watch", program=wait + PROGRAM, stdin=subprocess.PIPE)
    process.send_signal(signum)
    assert [process.stdout.readline() for _ in range(2)] == ["saved\n", "closed\n"]
    time.sleep(0.5)
    process.send_signal(signum)
    wait_for_end(process)
    assert process.returncode == 75


@pytest.mark.slow
def test_claimed_ctrl_c_without_stop_signal_raises_keyboard_interrupt():
    process = started("claim")
    process.send_signal(signal.SIGINT)
    wait_for_end(process)
    assert process.returncode == 99


@pytest.mark.slow
@pytest.mark.parametrize("options", [["watch", "stay"], ["claim", "watch", "stay"]])
def test_second_signal_ends_the_process_at_once(options):
    process = started(*options)
    process.send_signal(signal.SIGINT)
    process.stderr.readline()  # the line break after the progress bar
    assert "press Ctrl-C again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    wait_for_end(process)
    assert process.returncode == 130


@pytest.mark.slow
def test_a_late_second_signal_ends_the_process_at_once():
    process = started("claim", "watch", "stay")
    process.send_signal(signal.SIGUSR2)
    time.sleep(1.1)
    process.send_signal(signal.SIGTERM)
    out, _ = wait_for_end(process)
    assert (process.returncode, out) == (75, "")


@pytest.mark.slow
def test_the_second_signal_counts_while_standard_error_is_not_read():
    """A full pipe, as behind a paused pager: the main thread waits in a write, and holds the stream's lock."""
    write = "while watch.signum is None:\n                sys.stderr.write('x' * 99)\n            while True:"
    process = started("claim", "watch", program=PROGRAM.replace("while watch.signum is None:", write))
    for _ in range(600):  # two signals at once may count as one
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            break
    assert process.returncode == 130
    process.communicate()


@pytest.mark.slow
def test_a_forked_child_has_the_default_actions():
    """Its parent ends it: it has no run to close."""
    program = """
import os, signal
from rp2k_lab.core.signals import ENDING, claim_signals
claim_signals()
if not (child := os.fork()):
    os._exit(sum(signal.getsignal(signum) != signal.SIG_DFL for signum in ENDING))
assert os.waitpid(child, 0)[1] == 0
"""
    process = start(program=program)
    assert wait_for_end(process) == ("", "")
    assert process.returncode == 0


def test_every_signal_has_a_name():
    names = [signal_name(signum) for signum in (15, signal.SIGRTMIN + 3, signal.SIGRTMAX, 9)]
    assert names == ["SIGTERM", "SIGRTMIN+3", "SIGRTMAX", "SIGKILL"]
