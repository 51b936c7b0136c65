"""MindSpore's operators with the native library and without."""

import sys

import numpy as np
import pytest

from rp2k_lab import native
from tests.native.programs import run

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def with_and_without(tmp_path_factory):
    """The outputs of `operators` by their titles, with the library, again, and without it."""
    if native.state().version is None:
        pytest.skip(f"native kernels: {native.state()}")
    folder = tmp_path_factory.mktemp("operators")
    chosen = {"first": str(native.kernels_file()), "second": str(native.kernels_file()), "without": "0"}
    for name, library in chosen.items():
        run(sys.executable, "-m", "tests.native.operators", str(folder / f"{name}.npz"), RP2K_LAB_NATIVE=library)
    return [np.load(folder / f"{name}.npz") for name in chosen]


def test_the_library_and_onednn_agree(with_and_without):
    first, _, without = with_and_without
    assert set(first) == set(without)
    for title, values in without.items():
        error = np.abs(first[title] - values).max() / max(np.abs(values).max(), 1e-30)
        assert error <= (1e-3 if title.startswith("float16") else 1e-5), f"{title}: off by {error:.1e}"


def test_the_library_was_in_use(with_and_without):
    """Its batch norm and its convolution have other last bits."""
    first, _, without = with_and_without
    for title in ("batch norm: target", "grouped: target"):
        assert first[title].tobytes() != without[title].tobytes()


def test_the_same_bits_in_another_process(with_and_without):
    first, second, _ = with_and_without
    assert [title for title in first if first[title].tobytes() != second[title].tobytes()] == []
