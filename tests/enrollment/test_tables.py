"""The committed tables of new products are those of their cells."""

import importlib

import pytest

from rp2k_lab import PROJECT

FOLDERS = sorted(file.parent for file in PROJECT.glob("experiments/extension/*/cells.csv"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_readme_and_figure_are_made_from_the_cells(folder, monkeypatch):
    monkeypatch.syspath_prepend(PROJECT / "experiments")
    report = importlib.import_module("extension_report")
    for name, text in report.documents(folder).items():
        assert (folder / name).read_text("utf-8") == text, "run: python experiments/extension_tables.py"


def test_the_overview_is_made_from_the_cells(monkeypatch):
    monkeypatch.syspath_prepend(PROJECT / "experiments")
    report = importlib.import_module("extension_report")
    assert (report.RESULTS / "README.md").read_text("utf-8") == report.overview()
