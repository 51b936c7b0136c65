"""The native library's threads: each task once, after exceptions and forks, and the same bits."""

import pytest

from rp2k_lab.native import build
from tests.native.kernels_in_threads import digest
from tests.native.programs import compile_pool, run, run_kernels

pytestmark = pytest.mark.slow

FORKS = ("forks", "forks_beside_scratch")
POOL = (
    *("many_rounds", "counts_of_tasks", "at_once", "nested", "many_callers", "exceptions", "denormals", "launches"),
    *FORKS,
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    try:
        return compile_pool(tmp_path_factory.mktemp("pool"))
    except build.BuildError as error:
        pytest.skip(f"{error}: nothing can be compiled here")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_pool(pool, threads):
    for scenario in POOL:
        run(str(pool), str(threads), scenario)


def test_a_failure_is_seen(pool):
    with pytest.raises(AssertionError, match="wrong: the scenario"):
        run(str(pool), "2", "no such scenario")


@pytest.mark.parametrize("scenario", ["many_threads", "children"])
def test_kernels(onednn, scenario):
    run_kernels(scenario, onednn.threads)


def test_three_threads_and_the_layouts_of_older_processors(onednn):
    """Their blocks are of 8 channels; AVX-512 has 16."""
    run_kernels("random_kernels", 3, ONEDNN_MAX_CPU_ISA="AVX2")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_bits_from_run_to_run(new_onednn, threads):
    """Two copies of the library have their own threads, as two processes."""
    first, second = (new_onednn(threads) for _ in range(2))
    bits = digest(first)
    assert [digest(onednn) == bits for onednn in (first, second, second)] == [True] * 3
