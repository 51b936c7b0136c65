"""A study's view in MLflow: runs grouped by the factor, with charts of the chosen metrics.

MLflow 3.17 stores a named view in a tag of the experiment.  A link with the view's key opens it, and the page's menu
of saved views lists it.  This module writes the same JSON as the page.
"""

import base64
import hashlib
import json
import time
import zlib
from collections.abc import Sequence

VIEW_TAG = "mlflow.sharedViewState."


def grouped_view(group: str, metrics: Sequence[str]) -> tuple[str, str]:
    """Return (key, value of the experiment's tag VIEW_TAG + key) of a view of runs grouped by a factor.

    A bar is the mean of a group's last values; a curve is the mean at each step, in a band from minimum to maximum.
    Runs without the factor (the study's parent) are filtered out.  Equal arguments give an equal key and so replace
    the former view.

    Args:
        group: the factor as in MLflow's search: `tags.level`, `params.seed`.
        metrics: in display order.  `test/` metrics have one value and get a bar, `val/` metrics a bar and a curve,
            others a curve.  The first also sorts the groups, by their best run.
    """
    kind, factor = group.split(".", 1)
    bars = [_chart("BAR", metric) for metric in metrics if metric.startswith(("test/", "val/"))]
    curves = [_chart("LINE", metric) for metric in metrics if not metric.startswith("test/")]
    state = {
        "searchFilter": f"{kind}.`{factor}` LIKE '%'",
        # The page's default, the start time, adds the parents of runs in spite of the filter.
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": False,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": kind.removesuffix("s"), "groupByData": factor}],
        },
        "selectedColumns": [f"metrics.`{metric}`" for metric in metrics],  # in the page's table mode
        "runsHiddenMode": "SHOW_ALL",  # the default shows ten
        "compareRunCharts": bars + curves,
        "compareRunSections": [
            _section("BAR", f"Mean by {factor}", 240),
            _section("LINE", f"Mean and range by {factor}, during training", 300),
        ],
        "isAccordionReordered": True,  # else the page sorts the sections by name
    }
    content = json.dumps(state).encode()
    packed = "deflate;" + base64.b64encode(zlib.compress(content)).decode()
    view = {"name": f"By {factor}", "createdAt": int(time.time() * 1000), "state": packed}
    return hashlib.sha256(content).hexdigest(), json.dumps(view)


def view_page(experiment_id: str, key: str) -> str:
    """Return the page of a view, behind the address of a server."""
    view = f"viewStateShareKey={key}&compareRunsMode=CHART&workflowType=machine_learning"
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
