"""task=export: end to end, and its parts when they fail."""

import contextlib
import json
import os
import re
import shutil
import stat

import cv2
import mindspore
import numpy as np
import pandas as pd
import pytest
import yaml
from mindspore import Tensor, nn

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.image import center_crop, letterbox
from rp2k_lab.dataset.loader import evaluation_batches
from rp2k_lab.evaluation.open_set import OpenSet
from rp2k_lab.serving.onnx_file import OnnxFile, run_onnx
from rp2k_lab.task import export
from rp2k_lab.train.build import build_images

FILES = {"model.mindir", "model.onnx", "classes.txt", "model.json", "predict.py", "mlflow_model"}
RUN = "resnet18_shelf_none_seed0"


def test_export_writes_only_its_files_and_prints_them(first_run, exported):
    code, out, err = exported.result
    assert (code, err) == (0, "")
    assert {file.name for file in (exported.folder / "out").iterdir()} == FILES | {"model_int8.onnx"}
    assert [path.name for path in exported.folder.iterdir()] == ["out"]  # no temporary files of MindSpore, no store
    files = [file for file in (exported.folder / "out").rglob("*") if file.is_file()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o644}
    assert len(first_run.store.runs()) == 1
    table = {line.split()[0]: line for line in out.splitlines() if line.startswith("model.")}
    assert float(table["model.mindir"].split()[2]) <= 1e-6
    assert float(table["model.onnx"].split()[2]) <= 1e-4
    assert f"{(exported.folder / 'out' / 'model.onnx').stat().st_size:,}" in table["model.onnx"]
    assert f'mlflow models serve -m "{exported.folder}/out/mlflow_model"' in out
    assert re.search(r"int8 +\d+\.\d % \[.*\] of 30 have the same first product, calibrated on 30 other photos", out)
    assert re.search(r"top-1 .* before, .* after", out)
    assert out.endswith("registered  shelf, version 1\n")


def test_classes_are_in_label_order(exported, first_request):
    assert (exported.folder / "out" / "classes.txt").read_text("utf-8").splitlines() == first_request[1].classes


def test_card_describes_input_output_and_origin(first_run, exported):
    card = json.loads((exported.folder / "out" / "model.json").read_text("utf-8"))
    (run,) = first_run.store.runs()
    assert card["architecture"]["name"] == "resnet18"
    assert card["input"] == {"name": "images", "dtype": "uint8", "layout": "NHWC, RGB", "shape": [1, 32, 32, 3]}
    assert card["output"]["shape"] == [1, 8]
    assert card["batch"] == {"model.mindir": 1, "model.onnx": "any"}
    assert card["run"] == {"id": run.info.run_id, "name": RUN}
    weights = mindspore.load_checkpoint(str(first_run.folder / "out" / "checkpoints" / "best.ckpt"))
    fixed = ("moving_mean", "moving_variance", "step")
    trained = [values for name, values in weights.items() if not name.endswith(fixed)]
    assert card["parameters"] == sum(values.size for values in trained)
    assert [step["step"] for step in card["preparation"]] == ["decode", "letterbox", "center_crop"]
    assert len(card["checkpoint"]["sha256"]) == 64


def test_preparation_on_the_card_equals_evaluation(first_run, first_request):
    config, index = first_request
    config = config.model_copy(update={"crop_ratio": 0.8})
    _, resize, crop = export.preparation(config)
    photo = index.root / index.split("test")["path"][0]
    assert 160 <= max(cv2.imread(str(photo)).shape) < 320  # hence a quarter is as large as 40 pixels, an eighth is not
    decoded = cv2.cvtColor(cv2.imread(str(photo), cv2.IMREAD_REDUCED_COLOR_4), cv2.COLOR_BGR2RGB)
    by_hand = center_crop(letterbox(decoded, tuple(resize["size"])), tuple(crop["size"]))
    photos = build_images(config, index)
    (seen,) = evaluation_batches(photos, index.split("test")[:1], config.size, 1)
    np.testing.assert_array_equal(by_hand, seen[0])


def test_onnx_runtime_reproduces_the_recorded_probabilities(first_run, exported, first_request):
    config, index = first_request
    recorded = pd.read_parquet(first_run.folder / "out" / "test" / "predictions.parquet")
    batches = list(evaluation_batches(build_images(config, index), index.split("test"), config.size, 1))
    assert recorded["path"].tolist() == index.split("test")["path"].tolist()
    probabilities = np.concatenate([run[0] for run in run_onnx(exported.folder / "out" / "model.onnx", batches)])
    assert (probabilities.shape, probabilities.dtype) == ((80, 8), np.float32)
    top5 = -np.sort(-probabilities, 1)[:, :5]
    np.testing.assert_allclose(top5, recorded[[f"p{i}" for i in range(1, 6)]], atol=1e-4)
    assert [index.classes[label] for label in probabilities.argmax(1)] == list(recorded["top1"])


def test_checkpoint_file_is_exported_without_images_and_replaces_an_export(first_run, start, tmp_path):
    """With a larger batch, and into a folder whose name MindSpore refuses."""
    import onnxruntime

    folder = tmp_path / "run"
    shutil.copytree(first_run.folder / "out", folder)
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    dataset = {key: config["dataset"][key] for key in ("mean", "std", "val_fraction", "val_seed", "catch_all_class")}
    config["dataset"] = {"name": "rp2k", "root": "/no/such/folder", **dataset}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    output = tmp_path / "新 export"
    output.mkdir()
    (output / "model.json").write_text("an earlier one's")
    arguments = [f"runs={folder}/checkpoints/best.ckpt", f"task.output='{output}'", "task.batch_size=3"]
    command = start("task=export", *arguments, uri="sqlite:////no/store.db")
    code, out, err = command.wait()
    assert code == 0, err
    assert "best.ckpt: resnet18, 8 classes" in out
    assert {file.name for file in output.iterdir()} == FILES
    assert [file.name for file in tmp_path.glob("*export*")] == ["新 export"]
    session = onnxruntime.InferenceSession(output / "model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 32, 32, 3]
    assert [(out.name, out.shape) for out in session.get_outputs()] == [
        ("probabilities", ["batch", 8]),
        ("scores", ["batch"]),
        ("embeddings", ["batch", 128]),
    ]
    assert json.loads((output / "model.json").read_text("utf-8"))["input"]["shape"] == [3, 32, 32, 3]


def test_damaged_checkpoint_keeps_the_earlier_export(first_run, start, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(first_run.folder / "out", folder)
    os.truncate(folder / "checkpoints" / "best.ckpt", 1_000_000)
    output = tmp_path / "output"
    output.mkdir()
    (output / "model.json").write_text("an earlier one's")
    command = start("task=export", f"runs={folder}/checkpoints/best.ckpt", f"task.output={output}")
    code, _, err = command.wait()
    assert code == 2
    assert err.startswith("runs=")
    assert len(err.strip().splitlines()) == 2
    assert [file.name for file in output.iterdir()] == ["model.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["output", "run"]


def test_folder_with_other_files_is_refused(first_run, start):
    (run,) = first_run.store.runs()
    output = f"task.output={first_run.folder / 'out'}"
    code, _, err = start("task=export", f"runs={run.info.run_id}", output, uri=first_run.store.uri).wait()
    assert code == 2
    assert err.startswith(output)
    assert len(err.strip().splitlines()) == 2
    assert (first_run.folder / "out" / "config.yaml").exists()


def test_missing_onnx_operator_is_reported_and_the_other_files_are_written(
    first_run, first_request, compose, monkeypatch, tmp_path, capsys
):
    checkpoint = first_run.folder / "out" / "checkpoints" / "best.ckpt"
    request = {key: compose("task=export", f"runs={checkpoint}")[key] for key in ("task", "runs")}
    config = parse(first_request[0].model_dump(mode="json") | request)
    monkeypatch.setattr(export.target, "set_up", lambda device: None)
    monkeypatch.setattr(export, "write_onnx", lambda *_: OnnxFile(problem="no form for Erf"))
    with pytest.raises(export.ExportFailed, match=r"^model\.onnx is not written: no form for Erf\nthe other .*files"):
        export.run(config, tmp_path / "files")
    assert {file.name for file in (tmp_path / "files").iterdir()} == {"model.mindir", "classes.txt", "model.json"}
    assert "GraphCell" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*inferred as AnyType:UserWarning")  # inside mlflow 3.17
def test_registered_model_answers_and_has_the_metrics_of_its_run(first_run, later_store, exported, first_request):
    import mlflow

    client = mlflow.MlflowClient(later_store.uri)
    (version,) = client.search_model_versions("name = 'shelf'")
    (run,) = first_run.store.runs()
    assert (version.version, version.run_id) == (1, run.info.run_id)
    assert float(version.tags["test/top1"]) == pytest.approx(run.data.metrics["test/top1"], rel=1e-5)
    assert re.search(r"macro top-1 +\d+\.\d %  \[.*\] of 60 .* of 80", version.description)
    assert len(version.description) <= 5000
    model = mlflow.pyfunc.load_model(version.source)
    index = first_request[1]
    photo = index.root / index.split("test")["path"][0]
    (row,) = model.predict(pd.DataFrame({"image": [photo.read_bytes()]})).to_dict("records")
    recorded = pd.read_parquet(first_run.folder / "out" / "test" / "predictions.parquet")
    assert row["product"] == recorded["top1"][0]
    # The temperature divides the logits, and so the logarithm of a ratio.
    temperature = OpenSet.from_text((first_run.folder / "out" / "open_set.json").read_text("utf-8")).temperature
    (_, first), (_, second) = ((each["product"], each["probability"]) for each in row["top_k"][:2])
    assert row["probability"] == first
    assert np.log(first / second) == pytest.approx(
        np.log(recorded["p1"][0] / recorded["p2"][0]) / temperature, abs=1e-3
    )


def test_checkpoint_file_cannot_be_registered(first_run, request_of, tmp_path):
    with pytest.raises(RequestError, match=r"^task\.register=shelf: a checkpoint file has no run.*\nname the run"):
        export.run(request_of("task=export", "task.register=shelf"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mindir_with_other_probabilities_replaces_nothing(graph_mode, tmp_path):
    class Pooled(nn.Cell):
        def construct(self, images):
            return images.astype("float32").mean((1, 2))

    images = export.probe_images((2, 8, 8, 3))
    network = Pooled()
    wrong = network(Tensor(images)).asnumpy() + 0.01

    def into(output):
        with export.replacing(output) as part, contextlib.chdir(part):
            export.write_mindir(network, images, wrong)

    with pytest.raises(export.ExportFailed, match=r"differs by 0\.01"):
        into(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_probe_images_differ_from_each_other():
    images = export.probe_images((8, 8, 8, 3))
    assert (images.shape, images.dtype) == ((8, 8, 8, 3), np.uint8)
    assert len({image.tobytes() for image in images}) == 8
    assert cv2.Laplacian(images[0], cv2.CV_32F).std() > 1
