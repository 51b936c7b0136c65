"""Enroll a product as the command line does it: a process of task=extend, which leaves a tracked run."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rp2k_lab.core.csv_files import write_csv
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.quoting import hydra_value
from rp2k_lab.tracking.address import URI_VARIABLE


@dataclass(frozen=True)
class Enrollment:
    """What task=extend printed.

    Attributes:
        run_id: of the extension.
        findings: sentences of the gate.
        expected: lines of the table of what to expect.
    """

    run_id: str
    findings: list[str]
    expected: list[str]


def enroll_product(uri: str | None, reference: str, name: str, files: Sequence[Path]) -> Enrollment:
    """Extend a run by one product.

    Its photos are listed in a table, so that the name is a cell and never part of a path.

    Args:
        files: in one folder, which gets the table.

    Raises:
        RequestError, DataError: what task=extend refuses, in its words.
        RuntimeError: the process ended in another way.
    """
    folder = files[0].parent
    table = folder / "photos.csv"
    write_csv(pd.DataFrame({"path": [file.name for file in files], "label": name}), table)
    command = [sys.executable, "-m", "rp2k_lab", "task=extend"]
    command += [f"runs={hydra_value(reference)}", f"task.input={hydra_value(table)}"]
    environment = {**os.environ, **({URI_VARIABLE: uri} if uri else {})}  # a command line shows a password to others
    options = {"capture_output": True, "text": True, "encoding": "utf-8", "errors": "replace"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, **options)
    for kind in (RequestError, DataError):
        if done.returncode == kind.exit_code:
            lines = done.stderr.replace(f"{folder}/", "").strip().splitlines()[-2:]
            raise kind(re.sub(r"^task\.input(=\S*)?: ", "", "\n".join(lines)))
    if done.returncode:
        print(done.stderr, file=sys.stderr, flush=True)
        raise RuntimeError(f"task=extend ended with exit code {done.returncode}")
    return read_printed(done.stdout)


def read_printed(text: str) -> Enrollment:
    """Return what the closing lines of task=extend say."""
    closing = text[text.rindex("\nenrolled ") + 1 :]
    run_id = re.search(r"^run .*, id (\w+)$", closing, re.MULTILINE)
    assert run_id is not None
    (_, *findings), *tables = (part.splitlines() for part in closing.split("\n\n"))
    expected = next((lines for lines in tables if not lines[0].startswith(("page", "run"))), [])
    return Enrollment(run_id[1], [line.strip() for line in findings], expected)
