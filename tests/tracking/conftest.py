"""Fixtures for tests of stores: to make one takes two seconds, to copy it none."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def complete_store(tmp_path_factory) -> Path:
    """A complete store with the experiment `study` and no run; do not write to it."""
    from rp2k_lab.tracking.mlflow_store import connect

    file = tmp_path_factory.mktemp("complete") / "mlflow.db"
    connect(f"sqlite:///{file}", "study")
    return file


@pytest.fixture
def store(complete_store, tmp_path) -> Path:
    """A copy of the complete store."""
    return shutil.copy(complete_store, tmp_path / "mlflow.db")
