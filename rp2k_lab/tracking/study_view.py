"""A study's page in MLflow, set out beforehand: runs grouped by the factor, the charts of the chosen metrics first.

The page of MLflow 3.17 keeps a named view of its runs in a tag of the experiment; a link with the view's key opens
it, and the page's menu of saved views lists it.  What is made here is what the page itself would write.
"""

import base64
import hashlib
import json
import time
import zlib
from collections.abc import Sequence

VIEW_TAG = "mlflow.sharedViewState."


def grouped_view(group: str, metrics: Sequence[str]) -> tuple[str, str]:
    """The view of an experiment's runs grouped by a factor, as (key, value of the experiment's tag VIEW_TAG + key).

    A bar is the mean over a group's runs of their last values; a curve is the mean at each step, in a band from the
    smallest to the largest.  Runs without the factor, such as the study's parent, are filtered out.  The key follows
    from the arguments, so that a view made again replaces the former.

    Args:
        group: the factor as MLflow's search writes it: `tags.level`, `params.seed`.
        metrics: in the order to show them.  One under `test/` has a single value and gets a bar, one under `val/` a
            bar and a curve, any other a curve.  The first also sorts the groups, by the largest value of their runs.
    """
    kind, factor = group.split(".", 1)
    bars = [_chart("BAR", metric) for metric in metrics if metric.startswith(("test/", "val/"))]
    curves = [_chart("LINE", metric) for metric in metrics if not metric.startswith("test/")]
    state = {
        "searchFilter": f"{kind}.`{factor}` LIKE '%'",
        # Not by the start, the page's default: it then adds the parents of runs, whatever the filter says.
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": False,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": kind.removesuffix("s"), "groupByData": factor}],
        },
        "selectedColumns": [f"metrics.`{metric}`" for metric in metrics],  # of the table, the page's other mode
        "runsHiddenMode": "SHOW_ALL",  # in place of the first ten
        "compareRunCharts": bars + curves,
        "compareRunSections": [
            _section("BAR", f"Mean by {factor}", 240),
            _section("LINE", f"Mean and range by {factor}, during training", 300),
        ],
        "isAccordionReordered": True,  # or the page sorts the sections by name, with those of other metrics
    }
    content = json.dumps(state).encode()
    packed = "deflate;" + base64.b64encode(zlib.compress(content)).decode()
    view = {"name": f"By {factor}", "createdAt": int(time.time() * 1000), "state": packed}
    return hashlib.sha256(content).hexdigest(), json.dumps(view)


def page_url(experiment_id: str, key: str, port: int = 5000) -> str:
    """Where the page that `make ui` serves shows the view."""
    view = f"viewStateShareKey={key}&compareRunsMode=CHART&workflowType=machine_learning"
    return f"http://127.0.0.1:{port}/#/experiments/{experiment_id}/runs?{view}"


def _chart(kind: str, metric: str) -> dict:
    """A card in the section of its kind."""
    card = {"type": kind, "metricKey": metric, "uuid": f"{kind}-{metric}", "metricSectionId": kind}
    # Without a smoothness the page draws the mean of a curve smoothed, and outside its band.
    line = {"lineSmoothness": 0, "xAxisKey": "step", "scaleType": "linear", "xAxisScaleType": "linear"}
    return card | {"deleted": False, "isGenerated": False} | (line if kind == "LINE" else {})


def _section(kind: str, name: str, height: int) -> dict:
    """Two cards a row, `height` in pixels: a 1440 × 900 window shows both sections without scrolling."""
    return {"uuid": kind, "name": name, "display": True, "isReordered": True, "columns": 2, "cardHeight": height}
