"""Where a run comes from: code, packages, machine, request."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from rp2k_lab import PROJECT


def git_state() -> dict[str, str]:
    """`git_commit` and `git_dirty` (true, false), or both `unknown` where the code is in no git checkout."""
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    dirty = "unknown" if status is None else str(bool(status)).lower()
    return {"git_commit": commit or "unknown", "git_dirty": dirty}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def environment() -> str:
    """Python, machine and every installed package with its version, a line each."""
    packages = {d.name: d.version for d in importlib.metadata.distributions() if d.name}  # a broken one has no name
    threads = {name: value for name, value in os.environ.items() if name in ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA")}
    head = [f"# Python {platform.python_version()}", f"# {platform.platform()}, {os.cpu_count()} cores"]
    head += [f"# {name}={value}" for name, value in sorted(threads.items())]
    return "\n".join(head + [f"{name}=={packages[name]}" for name in sorted(packages, key=str.lower)]) + "\n"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(`group.key`, value) of a nested configuration."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
