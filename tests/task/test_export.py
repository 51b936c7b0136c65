"""task=export: end to end, and its parts when they fail."""

import contextlib
import json
import os
import shutil
import stat
from math import erf

import cv2
import mindspore
import numpy as np
import pandas as pd
import pytest
import yaml
from mindspore import Tensor, nn, ops

from rp2k_lab.config.schema import parse
from rp2k_lab.dataset.image import center_crop, letterbox
from rp2k_lab.dataset.loader import evaluation_batches
from rp2k_lab.evaluation.predictor import Classifier
from rp2k_lab.model import WithPreprocessing, create_model, layers
from rp2k_lab.task import export
from rp2k_lab.train.build import build_images

FILES = {"model.mindir", "model.onnx", "classes.txt", "model.json"}
RUN = "resnet18_shelf_none_seed0"


@pytest.fixture(scope="session")
def exported(first_run, start):
    """The first run's network, exported by the real command."""
    command = start("task=export", f"runs={RUN}", "device=gpu", uri=first_run.store.uri)  # writes on the CPU, always
    command.result = command.wait()
    return command


def test_export_writes_only_its_files_and_prints_them(first_run, exported):
    code, out, err = exported.result
    assert (code, err) == (0, "")
    assert {file.name for file in (exported.folder / "out").iterdir()} == FILES
    assert [path.name for path in exported.folder.iterdir()] == ["out"]  # no temporary files of MindSpore, no store
    assert {stat.S_IMODE(file.stat().st_mode) for file in (exported.folder / "out").iterdir()} == {0o644}
    assert len(first_run.store.runs()) == 1
    table = {line.split()[0]: line for line in out.splitlines() if line.startswith("model.")}
    assert float(table["model.mindir"].split()[2]) <= 1e-6
    assert float(table["model.onnx"].split()[2]) <= 1e-4
    assert f"{(exported.folder / 'out' / 'model.onnx').stat().st_size:,}" in table["model.onnx"]
    assert "(1, 32, 32, 3)" in out
    assert f'InferenceSession("{exported.folder}/out/model.onnx")' in out


def test_classes_are_in_label_order(exported, first_request):
    assert (exported.folder / "out" / "classes.txt").read_text("utf-8").splitlines() == first_request[1].classes


def test_card_describes_input_output_and_origin(first_run, exported):
    card = json.loads((exported.folder / "out" / "model.json").read_text("utf-8"))
    (run,) = first_run.store.runs()
    assert card["architecture"]["name"] == "resnet18"
    assert card["input"] == {"name": "images", "dtype": "uint8", "layout": "NHWC, RGB", "shape": [1, 32, 32, 3]}
    assert card["output"]["shape"] == [1, 8]
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
    probabilities = np.concatenate(export.run_onnx(exported.folder / "out" / "model.onnx", batches))
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
    arguments = [f"runs={folder}/checkpoints/last.ckpt", f"task.output='{output}'", "task.batch_size=3"]
    command = start("task=export", *arguments, uri="sqlite:////no/store.db")
    code, out, err = command.wait()
    assert code == 0, err
    assert "last.ckpt: resnet18, 8 classes" in out
    assert {file.name for file in output.iterdir()} == FILES
    assert [file.name for file in tmp_path.glob("*export*")] == ["新 export"]
    session = onnxruntime.InferenceSession(output / "model.onnx")
    assert session.get_inputs()[0].shape == [3, 32, 32, 3]


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
    monkeypatch.setattr(export, "write_onnx", lambda *_: (None, "no form for Erf"))
    with pytest.raises(export.ExportFailed, match=r"^model\.onnx is not written: no form for Erf\nthe other .*files"):
        export.run(config, tmp_path / "files")
    assert {file.name for file in (tmp_path / "files").iterdir()} == FILES - {"model.onnx"}
    assert "GraphCell" in capsys.readouterr().out


class Pooled(nn.Cell):
    """Maps uint8 (batch, height, width, 3) to float32 (batch, 3) by any activation."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def construct(self, images):
        return self.act(images.astype("float32") / 255.0).mean((1, 2))


class Reciprocal(nn.Cell):
    def construct(self, x):
        return ops.reciprocal(x + 1.0)


@pytest.fixture
def images(graph_mode, tmp_path, monkeypatch):
    """uint8 (4, 2, 8, 8, 3), in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return export.probe_images((2, 8, 8, 3))


def predictions(network, images):
    return [network(Tensor(batch)).asnumpy() for batch in images]


def test_operator_without_onnx_form_is_named(images, tmp_path):
    network = Pooled(Reciprocal())
    assert export.write_mindir(network, images, predictions(network, images)) == 0
    difference, problem = export.write_onnx(network, images, predictions(network, images))
    assert difference is None
    assert problem.endswith("exporter has no form for Reciprocal")
    assert [file.name for file in tmp_path.iterdir()] == ["model.mindir"]


def test_exact_gelu_is_exported_without_erf(images):
    network = Pooled(layers.GELU())
    difference, problem = export.write_onnx(network, images, predictions(network, images))
    assert problem is None
    assert difference < 1e-6


def test_layer_norm_is_exported(images):
    network = Pooled(layers.LayerNorm(3))
    difference, problem = export.write_onnx(network, images, predictions(network, images))
    assert problem is None
    assert difference < 1e-6


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "size"),
    [("convnext_tiny", (64, 96)), ("swin_tiny", (64, 96)), ("vit_small", (224, 224)), ("vit_small_dinov2", (70, 98))],
)
def test_networks_with_layer_norms_are_exported(images, name, size):
    """Also a position table that is resized inside the graph."""
    network = WithPreprocessing(create_model(name, 5, depth_multiplier=0.25), (0.5,) * 3, (0.2,) * 3)
    classifier = Classifier(network).set_train(False)
    photos = export.probe_images((1, *size, 3), 2)
    expected = predictions(classifier, photos)
    assert export.write_mindir(classifier, photos, expected) < 1e-5
    difference, problem = export.write_onnx(classifier, photos, expected)
    assert problem is None
    assert difference < 1e-5


def test_erf_free_gelu_is_gelu(graph_mode):
    x = np.linspace(-8, 8, 4001).astype(np.float32)
    expected = [v / 2 * (1 + erf(v / 2**0.5)) for v in x.tolist()]
    np.testing.assert_allclose(export.ErfFreeGelu()(Tensor(x)).asnumpy(), expected, atol=1e-6)


def test_files_with_other_probabilities_are_deleted(images, tmp_path):
    network = Pooled(nn.ReLU())
    wrong = [prediction + 0.01 for prediction in predictions(network, images)]
    difference, problem = export.write_onnx(network, images, wrong)
    assert difference is None
    assert "differ by 0.01" in problem

    def into(output):
        with export.replacing(output) as part, contextlib.chdir(part):
            export.write_mindir(network, images, wrong)

    with pytest.raises(export.ExportFailed, match=r"differs by 0\.01"):
        into(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_probe_images_differ_from_each_other():
    images = export.probe_images((2, 8, 8, 3))
    assert (images.shape, images.dtype) == ((4, 2, 8, 8, 3), np.uint8)
    assert len({batch.tobytes() for batch in images.reshape(8, -1)}) == 8
    assert cv2.Laplacian(images[0, 0], cv2.CV_32F).std() > 1
