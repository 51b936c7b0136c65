"""What the tests of reliability share."""

import shutil
import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(size): a disk of its own with so much room, as of mount(8): 64k, 30m."""
    mounted = []

    def mount(size: str):
        disk = tmp_path / f"disk{len(mounted)}"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this user cannot mount a small disk: what a full one does to a run was not looked at")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", "-l", str(disk)], check=True)
