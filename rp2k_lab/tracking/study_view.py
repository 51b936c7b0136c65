"""Saved views in MLflow: all runs as a table, and those of a study or sweep grouped by what varies, as charts.

MLflow 3.17 stores a named view in a tag of the experiment.  A link with the view's key opens it, and the page's menu
of saved views lists it.  This module writes the same JSON as the page.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import Any

VIEW_TAG = "mlflow.sharedViewState."
# The key of `runs_view`, the same in every experiment.
RUNS_KEY = "runs"
# Tasks that make no network and no score to compare networks by.
_TOOLS = ("convert", "embed", "errors", "evaluate", "export", "inspect", "predict")
# Folds of task=errors are trainings on a part of train.
_NO_FOLD = "params.`dataset.fold` = 'None'"
_CREATED = 1_764_000_000_000  # [ms]; MLflow wants a time, and equal views are to be equal texts


def runs_view() -> str:
    """Return the value of the experiment's tag VIEW_TAG + RUNS_KEY: a view of its trainings and ensembles.

    MLflow has no default view: our links and `make ui` name this one.
    """
    columns = ["metrics.`test/top1`", "metrics.`test/macro_top1`", "metrics.`val_best/top1`"]
    columns += [f"params.`{name}`" for name in ("model.name", "dataset.name", "aug.name", "seed")]
    state = {
        "searchFilter": " and ".join([*(f"tags.task != '{task}'" for task in _TOOLS), _NO_FOLD]),
        # Sorted by the start time, the page would hide trials and jobs behind their collapsed parents.
        "orderByKey": "metrics.`val_best/top1`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "compareRunCharts": [_chart("LINE", metric) for metric in ("val/top1", "val/macro_top1", "train/loss")],
        "compareRunSections": [_section("LINE", "During training", 300)],
        "isAccordionReordered": True,
    }
    return _saved("Runs", state)


def grouped_view(factors: Sequence[str], metrics: Sequence[str], parent: str | None = None) -> tuple[str, str]:
    """Return (key, value of the experiment's tag VIEW_TAG + key) of a view of runs grouped by what varies.

    A bar is the mean of a group's last values; a curve is the mean at each step, in a band from minimum to maximum.
    Left out are runs without a factor (the parent of a study) and those that were pruned, interrupted or failed.  Equal
    arguments give an equal key and so replace the former view.

    Args:
        factors: as in MLflow's search: `tags.level`, `params.seed`.
        metrics: in display order.  `test/` and `val_best/` metrics have one value and get a bar, others a curve.  The
            first also sorts the groups, by their best run.
        parent: the id of the runs' parent; None: any.
    """
    names = [factor.split(".", 1) for factor in factors]
    by = "By " + " and ".join(name for _, name in names)
    bars = [_chart("BAR", metric) for metric in metrics if metric.startswith(("test/", "val_best/"))]
    curves = [_chart("LINE", metric) for metric in metrics if not metric.startswith(("test/", "val_best/"))]
    terms = [f"{kind}.`{name}` LIKE '%'" for kind, name in names]
    # A pruned run is KILLED: MLflow has no other word.
    terms += [f"attributes.status != '{status}'" for status in ("KILLED", "FAILED")]
    terms += [f"tags.`mlflow.parentRunId` = '{parent}'"] if parent else []
    state = {
        "searchFilter": " and ".join(terms),
        # The page's default, the start time, adds the parents of runs in spite of the filter.
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": False,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": kind.removesuffix("s"), "groupByData": name} for kind, name in names],
        },
        "selectedColumns": [f"metrics.`{metric}`" for metric in metrics],  # in the page's table mode
        "runsHiddenMode": "SHOW_ALL",  # the default shows ten
        "compareRunCharts": bars + curves,
        "compareRunSections": [
            _section("BAR", f"Mean {by[0].lower()}{by[1:]}", 240),
            _section("LINE", f"Mean and range {by[0].lower()}{by[1:]}, during training", 300),
        ],
        "isAccordionReordered": True,  # else the page sorts the sections by name
    }
    return hashlib.sha256(json.dumps(state).encode()).hexdigest(), _saved(by, state)


def _saved(name: str, state: dict[str, Any]) -> str:
    """Return the text of a saved view."""
    packed = "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": name, "createdAt": _CREATED, "state": packed})


def view_page(experiment_id: str, key: str, mode: str = "CHART") -> str:
    """Return the page of a view, behind the address of a server.

    Args:
        mode: CHART or TABLE.
    """
    # The workflow decides the menu: by default MLflow shows that of language models.
    view = f"viewStateShareKey={key}&compareRunsMode={mode}&workflowType=machine_learning"
    return f"#/experiments/{experiment_id}/runs?{view}"


def _chart(kind: str, metric: str) -> dict:
    """Return a chart for the section of its kind."""
    card = {"type": kind, "metricKey": metric, "uuid": f"{kind}-{metric}", "metricSectionId": kind}
    # By default the page smooths the mean, which then leaves its band.
    line = {"lineSmoothness": 0, "xAxisKey": "step", "scaleType": "linear", "xAxisScaleType": "linear"}
    return card | {"deleted": False, "isGenerated": False} | (line if kind == "LINE" else {})


def _section(kind: str, name: str, height: int) -> dict:
    """Return a section of two charts a row, `height` in pixels: 1440 × 900 shows both sections without scrolling."""
    return {"uuid": kind, "name": name, "display": True, "isReordered": True, "columns": 2, "cardHeight": height}
