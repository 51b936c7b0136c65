"""Standard streams that lose their reader, terminal or disk, each in a separate process."""

import contextlib
import fcntl
import os
import pty
import subprocess
import sys

import pytest

from rp2k_lab import PROJECT
from rp2k_lab.core.streams import _LastingFile, write_at_once

PROGRAM = """
import logging, sys
from rp2k_lab.core.streams import keep_standard_streams, output_was_lost
keep_standard_streams()
keep_standard_streams()
file = open(sys.argv[1], "w")
logging.basicConfig(stream=sys.stdout, level="INFO")
for number in range(3):
    print("printed", number, "红茶" * 5000)
    logging.info("logged")
    print("error", file=sys.stderr)
    file.write("recorded\\n")
    file.flush()
sys.exit(7 if output_was_lost() else 5)
"""
LINE = "{}; the command continues without it"


def run(tmp_path, redirection, *options):
    """Run the program by a shell; return (exit code, stdout, stderr) and assert that its own file is whole."""
    program, file = tmp_path / "program.py", tmp_path / "file"
    program.write_text(PROGRAM, "utf-8")
    command = f'"$0" {" ".join(options)} "$1" "$2" {redirection}; exit ${{PIPESTATUS[0]}}'
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    bash = ["bash", "-c", command, sys.executable, str(program), str(file)]
    done = subprocess.run(bash, env=environment, capture_output=True, encoding="utf-8", timeout=60)
    assert file.read_text() == "recorded\n" * 3
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["-u"]])
def test_a_stream_that_breaks_is_named_once_and_the_process_goes_on(tmp_path, options):
    errors = ["error"] * 3
    code, _, err = run(tmp_path, "| head -c 5", *options)
    assert (code, sorted(err.splitlines())) == (7, [*errors, LINE.format("standard output: broken pipe")])
    code, _, err = run(tmp_path, "> /dev/full", *options)
    assert (code, sorted(err.splitlines())) == (7, [*errors, LINE.format("standard output: no space left on device")])
    code, out, err = run(tmp_path, "2> /dev/full", *options)
    assert (code, err) == (5, "")
    assert LINE.format("standard error: no space left on device") in out
    assert out.count("红茶") == 15_000
    assert run(tmp_path, "2>&1 | head -c 5", *options)[2] == ""
    assert run(tmp_path, "> /dev/full 2>&1", *options)[::2] == (7, "")


@pytest.mark.slow
def test_a_closed_descriptor_is_not_given_to_another_file(tmp_path):
    """Python has None for the stream, and the file would get the number 1 or 2: C code and children print there."""
    assert run(tmp_path, ">&-") == (5, "", "error\n" * 3)
    assert run(tmp_path, "2>&-")[::2] == (5, "")
    assert run(tmp_path, "<&- >&- 2>&-") == (5, "", "")


@pytest.mark.slow
def test_a_vanished_terminal_is_silent(tmp_path):
    terminal, child_end = pty.openpty()
    program = "input()\n" + PROGRAM
    pipes = {"stdin": subprocess.PIPE, "stdout": child_end, "stderr": child_end}
    command = [sys.executable, "-c", program, str(tmp_path / "file")]
    with subprocess.Popen(command, cwd=PROJECT, **pipes) as process:
        os.close(child_end)
        os.close(terminal)
        process.communicate(b"\n", timeout=60)
    assert process.returncode == 7
    assert (tmp_path / "file").read_text() == "recorded\n" * 3


@pytest.mark.slow
def test_a_pipe_that_another_process_made_non_blocking_loses_nothing(tmp_path):
    """The mode belongs to the pipe, not to a process; a full one then raises BlockingIOError."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "file")]
    with subprocess.Popen(command, cwd=PROJECT, stdout=writing, stderr=subprocess.DEVNULL) as process:
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            out = pipe.read()
    assert process.returncode == 5
    assert out.count("红茶") == 15_000


def test_a_short_line_is_written_without_waiting():
    reading, writing = os.pipe()
    write_at_once(writing, "é\udc80\n")
    assert os.read(reading, 100) == "é\\udc80\n".encode()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(65536))
    os.set_blocking(writing, True)
    write_at_once(writing, "not read")  # returns
    os.close(reading)
    write_at_once(writing, "no reader")
    os.close(writing)
    write_at_once(writing, "closed")


def test_a_full_disk_is_tried_again(tmp_path, capfd):
    """Lines after somebody freed space are in the log."""
    descriptor, full = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), os.open("/dev/full", os.O_WRONLY)
    saved = os.dup(1)
    try:
        stream = _LastingFile(1)
        os.dup2(full, 1)
        assert stream.write(b"lost\n") == 5
        assert stream.write(b"lost too\n") == 9
        os.dup2(descriptor, 1)
        assert stream.write(memoryview(b"kept\n")) == 5
    finally:
        os.dup2(saved, 1)
    assert (tmp_path / "log").read_text() == "kept\n"
    assert capfd.readouterr().err.splitlines() == [LINE.format("standard output: no space left on device")]
