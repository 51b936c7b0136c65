"""The exported files in use: predict.py beside task=predict, and the model behind `mlflow models serve`."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd
import pytest

from rp2k_lab.serving.predict import Recognizer

pytestmark = pytest.mark.soak
MLFLOW = (sys.executable, "-m", "mlflow", "models")


def test_predict_script_equals_the_task_on_500_images(exported, first_run, first_request, start, tmp_path):
    root = first_request[1].root
    whole = sorted(str(file) for file in root.rglob("*") if file.suffix.lower() in (".jpg", ".png"))
    crops = [f"{file}#xywh=4,6,{20 + i % 40},{30 + i % 60}" for i, file in enumerate(whole)]
    names = (whole + crops)[:600]
    assert len(whole) >= 300
    (tmp_path / "photos.txt").write_text("\n".join(names), "utf-8")
    arguments = [f"task.input={tmp_path}/photos.txt", f"task.output={tmp_path}/found.csv"]
    code, _, err = start("task=predict", "runs=resnet18_shelf_none_seed0", *arguments, uri=first_run.store.uri).wait()
    assert code == 0, err
    found = pd.read_csv(tmp_path / "found.csv").set_index("path")
    command = [sys.executable, exported.folder / "out" / "predict.py", *names]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=tmp_path, check=True)
    (tmp_path / "script.csv").write_text(done.stdout, "utf-8")
    rows = pd.read_csv(tmp_path / "script.csv").set_index("path")
    assert len(found) >= 500
    rows = rows.loc[found.index]
    for i in range(1, 6):
        np.testing.assert_allclose(rows[f"p{i}"], found[f"p{i}"], atol=1e-4)
    differs = rows["top1"] != found["top1"]
    assert (found[differs]["p1"] - found[differs]["p2"] < 2e-4).all()  # ties alone


@pytest.fixture(scope="module")
def served(exported, tmp_path_factory):
    """The address of a server of the exported model, moved to another folder."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(exported.folder / "out" / "mlflow_model", folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*MLFLOW, "serve", "-m", "model", "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"  # of uvicorn
    with (folder / "log").open("w") as log:
        environment = {**os.environ, "PATH": path}
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)  # it does not signal that it listens
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(60)


def ask(address: str, rows: list[dict], **params) -> list[dict]:
    """Return the answer's rows."""
    body = json.dumps({"dataframe_records": rows} | ({"params": params} if params else {})).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read(), parse_constant=pytest.fail)["predictions"]  # NaN is no JSON


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_served_model_answers_32_requests_at_once_with_bad_images_among_them(served, exported, first_request):
    index = first_request[1]
    photos = [(index.root / path).read_bytes() for path in index.split("test")["path"][:28]]
    bad = [b"", b"no image", photos[0][:300], b"\xff\xd8\xff" + bytes(100)]
    expected = Recognizer(exported.folder / "out")([*photos, *bad])
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda data: ask(served, [{"image": encoded(data)}]), [*photos, *bad]))
    for (row,), reference in zip(answers, expected, strict=True):
        assert (row["product"], row["error"]) == (reference["product"], reference["error"])
        if reference["error"] is None:
            assert row["probability"] == pytest.approx(reference["probability"], abs=1e-5)
            assert np.allclose(row["embedding"], reference["embedding"], atol=1e-5)
    assert [row["error"] is None for (row,) in answers] == [True] * 28 + [False] * 4


def test_served_model_takes_boxes_and_parameters(served):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)
    image = encoded(cv2.imencode(".jpg", pixels)[1].tobytes())
    rows = ask(served, [{"image": image, "boxes": [[0, 0, 30, 40], [70, 0, 9, 9]]}, {"image": image}], top_k=2)
    assert [(row["image"], row["box"]) for row in rows] == [(0, [0, 0, 30, 40]), (0, [70, 0, 9, 9]), (1, None)]
    assert [row["error"] for row in rows] == [None, "the box lies outside of the image", None]
    assert [len(row["top_k"] or ()) for row in rows] == [2, 0, 2]
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(served, [{"image": "abcde"}])
    assert refused.value.code == 400
    refused.value.close()


def test_dockerfile_is_written(exported, tmp_path):
    model = exported.folder / "out" / "mlflow_model"
    command = [
        *MLFLOW,
        "generate-dockerfile",
        "-m",
        str(model),
        "-d",
        str(tmp_path / "image"),
        "--env-manager",
        "local",
    ]
    subprocess.run(command, capture_output=True, check=True, cwd=tmp_path)
    assert "FROM " in (tmp_path / "image" / "Dockerfile").read_text()
    requirements = (model / "requirements.txt").read_text().splitlines()
    assert {line.split("==")[0] for line in requirements} >= {
        "mlflow",
        "numpy",
        "onnxruntime",
        "opencv-python-headless",
    }
    assert all("==" in line for line in requirements)
