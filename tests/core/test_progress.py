import os
import pty
import re
import subprocess
import sys
import time

import pytest

from rp2k_lab.core import progress as module
from rp2k_lab.core.progress import Activity, activity, progress

ON_A_TERMINAL = """
import sys, time
import rp2k_lab
from rp2k_lab.core import progress as module
from rp2k_lab.core.progress import activity, progress
from rp2k_lab.core.streams import keep_standard_streams
keep_standard_streams()
module._QUIET_SECONDS = 0.4
with activity("short work"):
    time.sleep(0.1)
with activity("long work"):
    time.sleep(0.9)
    print("an output")
    time.sleep(0.4)
    print("half a ", end="")
    time.sleep(0.6)
    print("line")
    for _ in progress([3, 4], 7, "counting", lambda item: item):
        time.sleep(0.6)
with activity(""):
    time.sleep(0.8)
"""


def on_a_terminal(script: str) -> str:
    """Run a script under a pseudo-terminal, and return everything that it wrote there."""
    reader, writer = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", script], stdout=writer, stderr=writer) as process:
        os.close(writer)
        parts = []
        while True:
            try:
                parts.append(os.read(reader, 65536))
            except OSError:  # Linux's end of a pseudo-terminal
                break
    os.close(reader)
    assert process.returncode == 0
    return b"".join(parts).decode()


def without_rewritten(text: str) -> str:
    """Return what stays of the output of a terminal."""
    return re.sub("\r[^\r\n]*\x1b\\[K", "", text)


@pytest.mark.slow
def test_a_terminal_has_one_rewritten_line_that_outputs_replace():
    text = on_a_terminal(ON_A_TERMINAL)
    assert "\rlong work, 1 s\x1b[K" in text
    assert "short work" not in text  # it took less than the quiet time
    assert "\x1b[Kan output\r\n" in text
    assert "half a line\r\n" in text  # no line was drawn into it
    assert "\rcounting  3 of 7  " in text
    assert without_rewritten(text) == "an output\r\nhalf a line\r\n"
    assert text.endswith("\r\x1b[K")


def test_counted_work_yields_its_items():
    assert list(progress([[1, 2], [3]], 3, "reading", len)) == [[1, 2], [3]]
    assert module._display._activities == []


def test_text_of_an_activity(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    work = Activity("evaluating val", 500)
    monkeypatch.setattr(time, "monotonic", lambda: 110.0)
    assert work.text() == "evaluating val, 10 s"
    work.done = 200
    assert work.text() == "evaluating val  200 of 500  20/s  0:00:15 left"
    work.detail, work.left = "loss 2.310", lambda: 3600.0
    assert work.text() == "evaluating val  200 of 500  loss 2.310  1:00:00 left"


def test_without_a_terminal_a_line_follows_silence(monkeypatch, capfd):
    monkeypatch.setattr(module, "_LINE_SECONDS", 0.5)
    with activity("outer work"):
        for _ in progress(range(4), 4, "four\x1b[2J photos"):
            time.sleep(0.4)
    lines = capfd.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3
    assert all(line.startswith("four\\x1b[2J photos  ") or line.startswith("four\\x1b[2J photos, ") for line in lines)


def test_short_work_is_silent_without_a_terminal(capfd):
    for _ in progress(range(3), 3, "three"):
        time.sleep(0.1)
    assert capfd.readouterr().err == ""


def test_an_error_ends_the_activity():
    with pytest.raises(ZeroDivisionError), activity("failing"):
        _ = 1 / 0
    assert module._display._activities == []


def test_a_forked_child_starts_without_activities():
    with activity("of the parent"):
        child = os.fork()
        if child == 0:
            os._exit(len(module._display._activities))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
