"""What a second run changes."""

import pytest

from rp2k_lab.analysis.compare import pair_classes, pair_table
from rp2k_lab.core.errors import RequestError
from tests.helpers.error_cases import case, cases


def of(*said: str):
    """Photos of a, b, a, b, …, and what a run says of them."""
    rows = [case("ab"[i % 2], top1, path=f"{i}.jpg", cause="tail" if top1 != "ab"[i % 2] else "")
            for i, top1 in enumerate(said)]  # fmt: skip
    return cases(*rows)


def test_errors_are_fixed_new_or_kept():
    found = pair_table(of("b", "b", "c", "a", "a"), of("a", "a", "b", "a", "a"))
    assert found["state"].tolist() == ["fixed", "new", "kept", "kept"]
    assert found["row"].tolist() == [0, 1, 2, 3]
    assert found["same"].tolist() == [False, False, False, True]
    assert found["top1_first"].tolist() == ["b", "b", "c", "a"]
    assert found["top1_second"].tolist() == ["a", "a", "b", "a"]
    assert found["cause_second"].tolist() == ["", "tail", "tail", "tail"]


def test_two_runs_without_errors_differ_in_nothing():
    assert len(pair_table(of("a", "b"), of("a", "b"))) == 0


def test_the_index_of_the_frames_does_not_matter():
    first, second = of("b", "a"), of("a", "a")
    moved = second.set_index(second.index + 7)
    assert pair_table(first, moved).equals(pair_table(first, second))


@pytest.mark.parametrize("change", [{"path": "x.jpg"}, {"true": "c"}])
def test_other_photos_or_labels_are_refused(change):
    second = of("a", "b")
    second.loc[1, list(change)] = list(change.values())
    with pytest.raises(RequestError, match=r"errors of different photos \(2 and 2") as error:
        pair_table(of("a", "b"), second)
    assert len(str(error.value).splitlines()) == 2


def test_classes_that_changed_most_come_first():
    found = pair_classes(pair_table(of("b", "b", "c", "a", "b", "a"), of("a", "a", "a", "a", "b", "b")))
    assert found.to_numpy().tolist() == [["a", 2, 0, 1], ["b", 1, 1, 1]]
    assert list(found.columns) == ["class", "fixed", "new", "kept"]
