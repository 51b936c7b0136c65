import numpy as np
import pytest
from PIL import Image

import rp2k_lab.dataset.normalization as module
from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.normalization import measure_normalization, with_normalization
from rp2k_lab.dataset.photo_index import build_index
from tests.helpers.dataset_options import options

pytestmark = pytest.mark.usefixtures("data_folder")


@pytest.fixture
def fill(tmp_path):
    """fill(*images): write photos of one class, half of them also as a second class; return the index and options."""

    def fill(*images):
        for i, image in enumerate(images):
            for name in ("a", "b"):
                (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(tmp_path / "set" / name / f"{i}.png")
        source = options("folder", root=tmp_path / "set", test_fraction=0.0)
        return build_index(source), source

    return fill


def flat(color, height=64, width=64):
    return np.full((height, width, 3), color, np.uint8)


def test_by_hand(fill):
    index, _ = fill(*[flat((255, 0, 51))] * 3, *[flat((0, 0, 102))] * 3)
    colors = (
        np.array([(255, 0, 51) if int(path[2]) < 3 else (0, 0, 102) for path in index.split("train")["path"]]) / 255
    )
    mean, std = measure_normalization(index)
    assert mean == tuple(np.round(colors.mean(0), 4))
    assert std == (round(colors[:, 0].std(), 4), module._LEAST_STD, round(colors[:, 2].std(), 4))


def test_padding_does_not_count_and_each_photo_counts_the_same(fill):
    index, _ = fill(*[flat(255, 10, 200), flat(0, 200, 200)] * 2)
    white = index.split("train")["path"].str.contains("[02].png", regex=True).mean()
    assert measure_normalization(index)[0][0] == round(white, 4)


def test_photos_of_one_color_have_a_deviation_above_zero(fill):
    mean, std = measure_normalization(fill(*[flat(0)] * 4)[0])
    assert mean == (0.0, 0.0, 0.0)
    assert min(std) > 0.003


def test_is_measured_once(fill, monkeypatch, data_folder):
    index, _ = fill(*[flat(i) for i in range(0, 200, 50)])
    first = measure_normalization(index)
    monkeypatch.setattr(module, "_measure", lambda index: pytest.fail("measured again"))
    assert measure_normalization(index) == first
    monkeypatch.undo()
    (file,) = (data_folder / "normalization").iterdir()
    for content in ("", "{}", '{"mean": [1], "std": [1]}', "[]"):
        file.write_text(content)
        assert measure_normalization(index) == first


def test_a_sample_is_the_same_every_time(fill, monkeypatch, data_folder):
    index, _ = fill(*np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8))
    whole = measure_normalization(index)
    monkeypatch.setattr(module, "_MOST_IMAGES", 10)
    samples = []
    for _ in range(2):
        for file in (data_folder / "normalization").iterdir():
            file.unlink()
        samples.append(measure_normalization(index))
    assert samples[0] == samples[1] != whole
    assert np.abs(np.subtract(samples[0], whole)).max() < 0.05


def test_only_missing_values_are_filled_in(fill):
    index, source = fill(*[flat(i) for i in range(0, 200, 50)])
    mean, std = measure_normalization(index)
    assert (with_normalization(source, index).mean, with_normalization(source, index).std) == (mean, std)
    half = source.model_copy(update={"mean": (0.1, 0.2, 0.3)})
    assert (with_normalization(half, index).mean, with_normalization(half, index).std) == ((0.1, 0.2, 0.3), std)
    given = half.model_copy(update={"std": (0.1, 0.2, 0.3)})
    assert with_normalization(given, index) is given


def test_a_damaged_photo_is_named(fill, tmp_path):
    index, _ = fill(*[flat(i) for i in range(0, 200, 50)])
    for path in index.split("train")["path"]:
        file = tmp_path / "set" / path
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"/a/\d\.png: a truncated or damaged PNG"):
        measure_normalization(index)
