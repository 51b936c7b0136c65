"""Errors of two runs: fixed, new, kept."""

import pytest

from rp2k_lab.analysis.compare import pair_classes, pair_table
from rp2k_lab.core.errors import RequestError
from tests.helpers.error_cases import case, cases


def predict(*labels: str):
    """Return cases with the true classes a, b, a, b, … and these predictions."""
    rows = [case("ab"[i % 2], top1, path=f"{i}.jpg", cause="tail" if top1 != "ab"[i % 2] else "")
            for i, top1 in enumerate(labels)]  # fmt: skip
    return cases(*rows)


def test_errors_are_fixed_new_or_kept():
    result = pair_table(predict("b", "b", "c", "a", "a"), predict("a", "a", "b", "a", "a"))
    assert result["state"].tolist() == ["fixed", "new", "kept", "kept"]
    assert result["row"].tolist() == [0, 1, 2, 3]
    assert result["same"].tolist() == [False, False, False, True]
    assert result["top1_first"].tolist() == ["b", "b", "c", "a"]
    assert result["top1_second"].tolist() == ["a", "a", "b", "a"]
    assert result["cause_second"].tolist() == ["", "tail", "tail", "tail"]


def test_runs_without_errors_have_no_pairs():
    assert len(pair_table(predict("a", "b"), predict("a", "b"))) == 0


def test_frame_indices_do_not_matter():
    first, second = predict("b", "a"), predict("a", "a")
    moved = second.set_index(second.index + 7)
    assert pair_table(first, moved).equals(pair_table(first, second))


@pytest.mark.parametrize("change", [{"path": "x.jpg"}, {"true": "c"}])
def test_different_images_or_labels_are_refused(change):
    second = predict("a", "b")
    second.loc[1, list(change)] = list(change.values())
    with pytest.raises(RequestError, match=r"errors of different photos \(2 and 2") as error:
        pair_table(predict("a", "b"), second)
    assert len(str(error.value).splitlines()) == 2


def test_most_changed_classes_come_first():
    result = pair_classes(pair_table(predict("b", "b", "c", "a", "b", "a"), predict("a", "a", "a", "a", "b", "b")))
    assert result.to_numpy().tolist() == [["a", 2, 0, 1], ["b", 1, 1, 1]]
    assert list(result.columns) == ["class", "fixed", "new", "kept"]
