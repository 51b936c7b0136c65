"""A study's page in MLflow, set out beforehand: runs grouped by the factor, the charts of the chosen metrics first.

The page of MLflow 3.17 keeps a named view of its runs in a tag of the experiment; a link with the view's key opens
it, and its menu "Saved views" lists it.  What is written here is what the page itself would write.
"""

import base64
import hashlib
import json
import time
import zlib
from collections.abc import Sequence

VIEW_TAG = "mlflow.sharedViewState."


def grouped_view(group: str, metrics: Sequence[str]) -> tuple[str, str]:
    """The view of an experiment's runs grouped by a factor, as (key, value of the tag `VIEW_TAG` + key).

    A bar shows the mean over a group's runs of each run's last value; a curve the mean at each step, within the
    band from the smallest to the largest.  Runs without the factor, such as a study's parent, are filtered out.

    Args:
        group: the factor as MLflow's search writes it, `tags.level` or `params.seed`.
        metrics: in the order to show them.  Those under `test/` have one value and get a bar, those under `val/`
            a bar and a curve, any other a curve.
    """
    kind, factor = group.split(".", 1)
    bars = [_chart("BAR", metric) for metric in metrics if metric.startswith(("test/", "val/"))]
    curves = [_chart("LINE", metric) for metric in metrics if not metric.startswith("test/")]
    state = {
        "searchFilter": f"{kind}.`{factor}` LIKE '%'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": True,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": kind.removesuffix("s"), "groupByData": factor}],
        },
        "selectedColumns": [f"metrics.`{metric}`" for metric in metrics],
        "runsHiddenMode": "SHOW_ALL",  # in place of the first ten
        "compareRunCharts": bars + curves,
        "compareRunSections": [_section("BAR", f"Mean by {factor}"), _section("LINE", f"Curves by {factor}")],
        "isAccordionReordered": True,  # or the page sorts the sections by name
    }
    content = json.dumps(state)
    key = hashlib.sha256(content.encode()).hexdigest()
    packed = "deflate;" + base64.b64encode(zlib.compress(content.encode())).decode()
    return key, json.dumps({"name": f"by {factor}", "createdAt": int(time.time() * 1000), "state": packed})


def page_url(experiment_id: str, key: str, port: int = 5000) -> str:
    """Where the page that `make ui` serves shows the view."""
    return f"http://127.0.0.1:{port}/#/experiments/{experiment_id}/runs?viewStateShareKey={key}&compareRunsMode=CHART"


def _chart(kind: str, metric: str) -> dict:
    return {
        "type": kind,
        "uuid": f"{kind} {metric}",
        "metricSectionId": kind,
        "metricKey": metric,
        "deleted": False,
        "isGenerated": False,
        **(
            {
                "selectedMetricKeys": [metric],
                "lineSmoothness": 0,
                "scaleType": "linear",
                "xAxisKey": "step",
                "xAxisScaleType": "linear",
                "selectedXAxisMetricKey": "",
                "useGlobalXaxisKey": True,
                "useGlobalLineSmoothing": True,
            }
            if kind == "LINE"
            else {}
        ),
    }


def _section(kind: str, name: str) -> dict:
    return {"uuid": kind, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
