"""Extensions: order, identity, bytes, and damaged files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rp2k_lab.core.errors import DataError
from rp2k_lab.extension.extension_file import (
    Enrolled,
    Extension,
    no_images,
    read_extension,
    write_extension,
)
from rp2k_lab.extension.gallery import build_gallery, unit
from tests.helpers.extensions import extension_of

WIDTH = 16
CLASSES = ("Ada", "百岁山", "Cola", "Dim")


def draw(count: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32))


@pytest.fixture(scope="module")
def base() -> Extension:
    vectors, labels = draw(40, 0), np.repeat(np.arange(4), 10)
    scores = {"val_scores": np.sort(draw(20, 1)[:, 0]), "val_hidden": np.sort(draw(20, 2)[:, 0])}
    return extension_of(CLASSES, build_gallery(vectors, labels), **scores)


def products(names: list[str], seed: int, photos: int = 8) -> dict[str, tuple[np.ndarray, list[str]]]:
    return {
        name: (draw(photos, seed + i), [f"{seed + i:03}-{photo:03}" for photo in range(photos)])
        for i, name in enumerate(names)
    }


def enroll(extension: Extension, new: dict[str, tuple[np.ndarray, list[str]]]) -> Extension:
    names = [name for name in sorted(new) if name not in extension.classes]
    labels = [(*extension.classes, *names).index(name) for name, (_, shas) in new.items() for _ in shas]
    vectors = np.concatenate([vectors for vectors, _ in new.values()])
    shas = tuple(sha for _, shas in new.values() for sha in shas)
    return extension.enroll(names, Enrolled(vectors, np.array(labels, np.int32), shas).sorted())


def scores_by_name(extension: Extension, vectors: np.ndarray) -> dict[str, bytes]:
    return {
        name: row.tobytes() for name, row in zip(extension.classes, extension.gallery.scores(vectors).T, strict=True)
    }


def test_the_order_of_extensions_does_not_matter(base):
    first, second, queries = products(["Zig", "Eis"], 10), products(["Fit", "Ale"], 20), draw(50, 3)
    ways = [enroll(enroll(base, first), second), enroll(enroll(base, second), first), enroll(base, first | second)]
    assert scores_by_name(ways[0], queries) == scores_by_name(ways[1], queries) == scores_by_name(ways[2], queries)
    assert ways[0].classes[:4] == CLASSES
    assert set(ways[0].classes[4:]) == {"Zig", "Eis", "Fit", "Ale"}


def test_the_order_of_photos_does_not_matter(base):
    (vectors, shas) = products(["Zig"], 10)["Zig"]
    turned = {"Zig": (vectors[::-1], shas[::-1])}
    apart = enroll(enroll(base, {"Zig": (vectors[:3], shas[:3])}), {"Zig": (vectors[3:], shas[3:])})
    whole = enroll(base, {"Zig": (vectors, shas)})
    assert enroll(base, turned).gallery.centers.tobytes() == whole.gallery.centers.tobytes()
    assert apart.gallery.centers.tobytes() == whole.gallery.centers.tobytes()
    assert enroll(whole, turned).enrolled.sha256 == whole.enrolled.sha256  # no photo counts twice


def test_removing_what_was_added_is_the_identity(base, tmp_path):
    parent = enroll(base, products(["Eis"], 10))
    child = enroll(parent, products(["Zig", "Ale"], 20)).remove(["Ale", "Zig"])
    write_extension(parent, tmp_path / "parent")
    write_extension(child, tmp_path / "child")
    assert (tmp_path / "parent").read_bytes() == (tmp_path / "child").read_bytes()


def test_old_scores_keep_their_bits(base):
    queries = draw(200, 4)
    extended = enroll(base, products([f"new {i}" for i in range(30)], 50))
    assert (extended.gallery.scores(queries)[:, :4] == base.gallery.scores(queries)).all()


def test_removed_base_classes_leave_the_others(base):
    queries, left = draw(30, 5), base.remove(["百岁山"])
    assert left.classes == ("Ada", "Cola", "Dim")
    assert left.head_labels == (0, 2, 3)
    assert (left.gallery.scores(queries) == base.gallery.scores(queries)[:, [0, 2, 3]]).all()


def test_added_images_keep_the_old_centers(base):
    more = enroll(base, products(["Cola"], 30))
    queries = draw(30, 6)
    assert more.classes == CLASSES
    before, after = base.gallery.scores(queries), more.gallery.scores(queries)
    assert (after[:, [0, 1, 3]] == before[:, [0, 1, 3]]).all()
    assert (after[:, 2] >= before[:, 2]).all()
    assert (after[:, 2] > before[:, 2]).any()


def test_renaming_changes_names_alone(base):
    renamed = base.rename({"Cola": "Cola Zero"})
    assert renamed.classes == ("Ada", "百岁山", "Cola Zero", "Dim")
    assert renamed.gallery.centers.tobytes() == base.gallery.centers.tobytes()


def test_padded_centers_repeat_the_first_of_a_class(base):
    extended = enroll(base, {"Zig": products(["Zig"], 10, photos=2)["Zig"]})
    padded = extended.padded_centers()
    assert padded.shape == (5, 5, WIDTH)
    own = extended.gallery.centers[extended.gallery.labels == 4]
    np.testing.assert_array_equal(padded[4], own[[0, 1, 0, 0, 0]])


def test_a_file_gives_the_extension_back(base, tmp_path):
    extended = enroll(base, products(["Zig", "Eis"], 10))
    write_extension(extended, tmp_path / "a")
    write_extension(extended, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = read_extension(tmp_path / "a")
    assert (found.classes, found.head_labels, found.scale) == (extended.classes, extended.head_labels, 7.5)
    queries = draw(9, 7)
    assert (found.gallery.scores(queries) == extended.gallery.scores(queries)).all()
    assert not list(tmp_path.glob("*part*"))


def rewritten(file, change) -> None:
    """Change the record of a file's header."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(file, "np") as opened:
        record = json.loads(opened.metadata()["extension"])
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(record, arrays)
    save_file(arrays, file, {"extension": json.dumps(record)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record, arrays: record.update(version=99), "later version"),
        (lambda record, arrays: record.pop("classes"), "damaged"),
        (lambda record, arrays: record.update(classes=["one"]), "do not fit"),
        (lambda record, arrays: arrays.update(base_centers=arrays["base_centers"][:, :3].copy()), "do not fit"),
        (lambda record, arrays: arrays.update(matrix=arrays["matrix"] * np.float32("nan")), "NaN"),
        (lambda record, arrays: arrays.update(enrolled_labels=arrays["enrolled_labels"] + 9), "no class"),
        (lambda record, arrays: record.update(old="both"), "old classes"),
    ],
)
def test_damaged_files_are_named(base, tmp_path, change, reason):
    file = tmp_path / "extension.safetensors"
    write_extension(enroll(base, products(["Zig"], 10)), file)
    rewritten(file, change)
    with pytest.raises(DataError, match=reason) as raised:
        read_extension(file)
    assert str(file) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 2


def test_other_files_are_no_extensions(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_extension(tmp_path / "none")
    (tmp_path / "cut").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(DataError, match="damaged"):
        read_extension(tmp_path / "cut")


def test_52_weekly_extensions_load_in_a_second(base, tmp_path):
    import time

    extension = replace(base, enrolled=no_images(WIDTH))
    for week in range(52):
        extension = enroll(extension, products([f"week {week} {i}" for i in range(4)], 1000 + 4 * week))
    write_extension(extension, tmp_path / "chain")
    started = time.monotonic()
    assert read_extension(tmp_path / "chain").padded_centers().shape[0] == 4 + 208
    assert time.monotonic() - started < 1
