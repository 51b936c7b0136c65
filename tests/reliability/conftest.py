"""Fixtures for the reliability tests."""

import shutil
import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(size): mount an empty disk of a size in the notation of mount(8): 64k, 30m."""
    mounted = []

    def mount(size: str):
        disk = tmp_path / f"disk{len(mounted)}"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this user cannot mount a small disk: the behavior on a full disk is not tested")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def store(tmp_path, empty_store):
    """The URI of a fresh sqlite store."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "mlflow.db").write_bytes(empty_store)
    return f"sqlite:///{tmp_path}/store/mlflow.db"
