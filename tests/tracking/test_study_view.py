"""Saved views on the real MLflow page, with a server and a browser."""

import base64
import json
import math
import re
import urllib.request
import zlib
from contextlib import suppress
from types import SimpleNamespace
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pytest

from rp2k_lab.core.errors import Pruned
from rp2k_lab.tracking.study_view import RUNS_KEY, VIEW_TAG, grouped_view, view_page
from rp2k_lab.tracking.tracker import MlflowTracker

LEVELS = {"baseline": 0.70, "cutout": 0.74, "mixup": 0.78}
STEPS = range(10, 60, 10)
METRICS = ["test/top1", "val_best/top1", "val/top1", "train/loss"]
# All charts on the page, as traces of Plotly.
PLOTS = """() => [...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.data.map(trace => ({
    names: trace.names, metric: trace.metricKey, mode: trace.mode, fill: trace.fill,
    x: Array.from(trace.x), y: Array.from(trace.y) })))"""
# The texts of the elements of a selector, from left to right (x) or from top to bottom (y); the page's own order is not
# the one on the screen.
TEXTS = """([selector, axis]) => [...document.querySelectorAll(selector)]
    .sort((a, b) => a.getBoundingClientRect()[axis] - b.getBoundingClientRect()[axis]).map(e => e.innerText.trim())"""

# The page asks a server without users for the current user.  A browser that needs two frames for MLflow's layout
# logs a message.
EXPECTED = re.compile("/users/current$|^null ResizeObserver loop completed with undelivered notifications")


def curve(top1, seed):
    """A run's val/top1 at each of STEPS: seeds differ by 0.02."""
    return [top1 * (1 - math.exp(-step / 20)) + 0.02 * seed for step in STEPS]


@pytest.fixture(scope="module")
def study(new_server, tmp_path_factory):
    """Six runs of three levels and a pruned one, under a parent without metrics; a fold; and a run of task=predict.

    Gives experiment id, view key and port.
    """
    folder = tmp_path_factory.mktemp("study")
    with new_server(folder) as server:
        tracking = SimpleNamespace(name="mlflow", uri=server.address, experiment="ablation", flush_seconds=3600)
        with MlflowTracker(tracking, "the parent", folder / "runs") as parent:
            for level, top1 in LEVELS.items():
                for seed in (0, 1):
                    with MlflowTracker(tracking, f"{level} {seed}", folder / "runs") as run:
                        run.set_tags({"mlflow.parentRunId": parent.run_id, "level": level, "task": "train"})
                        run.log_params(
                            {"model.name": "resnet18", "dataset.name": "shelf", "aug.name": level, "seed": seed}
                            | {"dataset.fold": None}
                        )
                        for step, value in zip(STEPS, curve(top1, seed), strict=True):
                            run.log_metrics({"val/top1": value, "train/loss": 1 - value, "train/lr": 0.1}, step)
                        scores = {"test/top1": top1 + 0.02 * seed, "test/macro_top1": top1, "val_best/top1": top1}
                        run.log_metrics(scores, STEPS[-1])
            with suppress(Pruned), MlflowTracker(tracking, "pruned", folder / "runs") as run:
                run.set_tags({"mlflow.parentRunId": parent.run_id, "level": "cutout", "task": "train"})
                run.log_params({"dataset.fold": None})
                run.log_metrics({"val/top1": 0.0, "train/loss": 9.0}, STEPS[0])
                raise Pruned
        with MlflowTracker(tracking, "a fold", folder / "runs") as run:
            run.set_tags({"task": "train"})
            run.log_params({"dataset.fold": "1/3"})
            run.log_metrics({"val/top1": 0.99, "val_best/top1": 0.99, "test/top1": 0.99}, STEPS[0])
        with MlflowTracker(tracking, "predict_something", folder / "runs") as run:
            run.set_tags({"task": "predict"})
        key, value = grouped_view(["tags.level"], METRICS)
        mlflow.MlflowClient(server.address).set_experiment_tag(parent.experiment_id, VIEW_TAG + key, value)
        yield SimpleNamespace(experiment=parent.experiment_id, key=key, port=urlsplit(server.address).port)


@pytest.fixture
def page(browser, study):
    """A page, its requests and messages so far, and the address of the server."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page, requests, messages = context.new_page(), [], []
    context.on("request", lambda request: requests.append(request.url))
    page.on(
        "console", lambda line: messages.append(f"{line.text} {line.location['url']}") if line.type == "error" else None
    )
    page.on("pageerror", lambda error: messages.append(str(error)))
    yield SimpleNamespace(page=page, requests=requests, messages=messages, address=f"http://127.0.0.1:{study.port}/")
    context.close()


def test_runs_open_as_a_table_of_trainings_in_training_mode(page, study):
    """By the link to the saved view, then by a click from the page that the server opens with."""
    page.page.goto(page.address + view_page(study.experiment, RUNS_KEY, "TABLE"))
    page.page.get_by_text("7 matching runs").wait_for(timeout=60_000)
    page.page.get_by_text("0.78").first.wait_for()
    headers = page.page.evaluate(TEXTS, ["[role=columnheader]", "x"])
    columns = ["test/top1", "test/macro_top1", "val_best/top1", "model.name", "dataset.name", "aug.name", "seed"]
    assert list(dict.fromkeys(header for header in headers if header in columns)) == columns
    names = list(dict.fromkeys(page.page.evaluate(TEXTS, ["a[href*='/runs/']", "y"])))
    assert [name[:-2] for name in names[:6]] == [level for level in ("mixup", "cutout", "baseline") for _ in (0, 1)]
    assert names[6:] == ["pruned"]

    page.page.goto(page.address)
    page.page.get_by_role("link", name="ablation").first.click()
    page.page.wait_for_url(re.compile(rf"/experiments/{study.experiment}/runs\?.*workflowType=machine_learning"))
    page.page.get_by_text("predict_something").first.wait_for()
    assert page.page.get_by_text("Ask a question").count() == 0  # the assistant takes a quarter of the window
    assert [line for line in page.messages if not EXPECTED.search(line)] == []


def test_page_opens_grouped_with_the_charts_of_the_study(page, study):
    page.page.goto(page.address + view_page(study.experiment, study.key))
    page.page.wait_for_function(f"({PLOTS})().filter(traces => traces.length).length >= 4", timeout=60_000)
    page.page.wait_for_selector(".js-plotly-plot .main-svg")
    text = page.page.locator("body").inner_text()
    assert [text.count(f"Group: {level}\n") for level in LEVELS] == [1, 1, 1]
    assert "6 matching runs" in text
    assert "the parent" not in text
    assert text.index("Group: mixup") < text.index("Group: baseline")
    assert text.index("Mean by level") < text.index("Mean and range by level") < text.index("train\n(1)")

    test_bar, val_bar, val_curve, loss_curve = page.page.evaluate(PLOTS)[:4]
    shown = dict(zip(test_bar[0]["names"], test_bar[0]["x"], strict=True))
    assert shown == pytest.approx({level: top1 + 0.01 for level, top1 in LEVELS.items()})
    assert dict(zip(val_bar[0]["names"], val_bar[0]["x"], strict=True)) == pytest.approx(LEVELS)

    best_first = sorted(LEVELS.values(), reverse=True)
    means = [trace["y"] for trace in val_curve if trace["metric"] and trace["mode"] == "lines+markers"]
    np.testing.assert_allclose(means, [curve(top1, 0.5) for top1 in best_first])
    bands = [trace for trace in val_curve if trace["fill"]]
    for band, top1 in zip(bands, best_first, strict=True):
        edges = [value for value in band["y"] if value is not None]
        np.testing.assert_allclose(edges, curve(top1, 0)[::-1] + curve(top1, 1))
    assert {trace["metric"] for trace in loss_curve} == {None, "train/loss"}

    assert [line for line in page.messages if not EXPECTED.search(line)] == []
    assert {urlsplit(url).netloc for url in page.requests} == {f"127.0.0.1:{study.port}"}
    with urllib.request.urlopen(f"http://127.0.0.1:{study.port}/ajax-api/3.0/mlflow/ui-telemetry") as answer:
        assert json.load(answer)["disable_ui_telemetry"] is True


def test_equal_arguments_give_the_same_view_key():
    key, value = grouped_view(["params.seed"], METRICS)
    assert grouped_view(["params.seed"], METRICS) == (key, value)
    assert grouped_view(["tags.seed"], METRICS)[0] != key
    view = json.loads(value)
    state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
    assert view["name"] == "By seed"
    assert state["groupBy"]["groupByKeys"] == [{"mode": "param", "groupByData": "seed"}]
