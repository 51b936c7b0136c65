"""An instance of the native library."""

import pytest

from rp2k_lab import native


@pytest.fixture(scope="session")
def new_onednn(tmp_path_factory):
    """new_onednn(threads=2): load another copy of the library, with its own threads."""
    from tests.native.onednn import Onednn

    if not native.kernels_file().is_file():
        pytest.skip("the native library is not built")
    folder = tmp_path_factory.mktemp("native")
    return lambda threads=2: Onednn(folder, threads)


@pytest.fixture(scope="session")
def onednn(new_onednn):
    """An instance with two threads."""
    return new_onednn()
