"""What the demo makes of photos and of an absent data set, without a compiled network."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.demo import recognizer
from rp2k_lab.demo.recognizer import Network, Recognizer, TrainingPhotos
from rp2k_lab.evaluation.open_set import conformal
from rp2k_lab.evaluation.predictor import Answers, Member, Preprocessing
from rp2k_lab.model import WithPreprocessing, create_model

CLASSES = ("Cola", "a <b>\n", "others")


@pytest.fixture(scope="module")
def cell():
    model = create_model("resnet18", 3, width_multiplier=0.25, depth_multiplier=0.5)
    return WithPreprocessing(model, (0.5,) * 3, (0.2,) * 3)


@pytest.fixture
def network(monkeypatch, cell):
    """A network of three classes."""
    member = Member("run", cell, Preprocessing((64, 48), "letterbox", 1.0), conformal(np.arange(19) / 20))
    run = SimpleNamespace(name="run", run_id="1" * 32, classes=CLASSES)
    monkeypatch.setattr(recognizer, "load_members", lambda configs: ([run], [member]))
    config = SimpleNamespace(task=SimpleNamespace(reject=0.05), device=SimpleNamespace(num_threads=1), batch_size=1)
    config.model_copy = lambda update: config
    return Network(config)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "zero bytes"),
        (b"no image", "neither JPEG"),
        (b"<svg onload='alert(1)'/>", "neither JPEG"),
        (b"\xff\xd8\xff", "a truncated or damaged JPEG of 3 bytes"),
        (b"8BPS\0\1", "Photoshop is not read"),
    ],
)
def test_a_bad_photo_is_named_in_two_lines(network, tmp_path, content, problem):
    (tmp_path / "photo").write_bytes(content)
    with pytest.raises(DataError, match=rf"^the photo: {problem}[^\n]*\nuse JPEG, PNG[^\n]*files$"):
        network.read(tmp_path / "photo")


@pytest.mark.parametrize("kind", [pytest.param("PNG", marks=pytest.mark.soak), "JPEG"])
def test_a_photo_of_fifty_megapixels_is_read(network, tmp_path, kind):
    Image.new("RGB", (10_000, 5_000), (200, 30, 30)).save(tmp_path / "photo", kind, compress_level=1)
    images = network.read(tmp_path / "photo")
    assert images.shape == (1, 64, 48, 3)
    assert (images[0, 32, 24] > (190, 0, 0)).all()


def test_an_answer_has_the_probable_products_and_says_whether_it_is_known(network, monkeypatch):
    found = Answers(np.array([[1, 0, 2]]), np.array([[0.5, 0.25, 0.25]], np.float32), np.array([0.87], np.float32))
    monkeypatch.setattr(network._predictor, "answers", lambda batches, k, is_calibrated: found)
    answer = network.answer(np.zeros((1, 64, 48, 3), np.uint8))
    assert answer["top"][0] == {"name": "a <b>\\n", "probability": 0.5}
    assert (answer["label"], answer["known"]) == (1, True)
    assert answer["p_value"] == pytest.approx(0.95)
    network.member = Member("run", network.member.network, network.member.preprocessing, None)
    assert network.answer(np.zeros((1, 64, 48, 3), np.uint8))["known"] is None


def test_the_nearest_training_photos_come_with_thumbnails(tmp_path, write_photo):
    write_photo(tmp_path / "a.png", 300, 200)
    table = pd.DataFrame({"path": ["a.png", "gone.png", "t.png"], "class": ["Cola", "a\n", "Cola"]})
    table["split"] = ["train", "train", "test"]
    index = SimpleNamespace(root=tmp_path, split=lambda name: table[table["split"] == name])
    photos = TrainingPhotos(index, np.array([[1, 1], [1, 0]], np.float32))
    first, second = photos.nearest(np.array([[2, 0]], np.float32))
    assert (first["name"], first["title"], first["image"]) == ("a\\n", "gone.png", None)
    assert first["cosine"] == pytest.approx(1)
    assert second["cosine"] == pytest.approx(0.5**0.5)
    assert second["image"].startswith("data:image/jpeg;base64,")


@pytest.fixture
def without_data(monkeypatch, network):
    """A recognizer whose data set is absent."""

    def check_files():
        raise RequestError("dataset.root=/gone: there is no such folder\nrestore it")

    config = SimpleNamespace(dataset=SimpleNamespace(check_files=check_files), device=None)
    monkeypatch.setattr(Recognizer, "_restored", lambda self, reference: config)
    monkeypatch.setattr(recognizer.target, "set_up", lambda device: None)
    monkeypatch.setattr(recognizer, "Network", lambda config: network)
    with Recognizer(None, "last") as opened:
        yield opened


def test_without_its_data_set_a_run_still_answers(without_data, network):
    reason = "dataset.root=/gone: there is no such folder"
    assert without_data.about() == {
        "run": f"run, id {'1' * 32}",
        "products": 3,
        "input": "64×48, letterbox",
        "without_data": reason,
    }
    assert without_data._nearest(np.zeros((1, 2), np.float32)) == []
    with pytest.raises(RequestError, match=rf"{reason}\nrestore the data set"):
        without_data.enroll("Zig", [b"photo"])


def test_its_folder_is_removed(without_data):
    folder = without_data._folder
    assert folder.is_dir()
    without_data.__exit__()
    assert not folder.exists()
