"""The native library compiled with sanitizers, which end the process at the first error in its memory or threads."""

import pytest

from rp2k_lab.native import build
from tests.native.programs import compile_pool, run, run_kernels
from tests.native.test_threads import FORKS, POOL

pytestmark = pytest.mark.soak

# The thread sanitizer of GCC 12 cannot start threads in a child of a process with threads.  The address sanitizer's
# allocator stays locked in a child if another thread is in it; those of `pool_driver.cpp` are not, NumPy's are.
POOL_WITHOUT_FORKS, KERNELS_WITHOUT_FORKS = {"thread"}, {"thread", "address"}


@pytest.fixture(scope="module", params=build.SANITIZERS)
def sanitizer(request):
    try:
        build.sanitizer_runtime(request.param)
    except build.BuildError as error:
        pytest.skip(str(error))
    return request.param


def test_the_pool(tmp_path, sanitizer):
    program = compile_pool(tmp_path, sanitizer)
    for scenario in POOL:
        if scenario not in FORKS or sanitizer not in POOL_WITHOUT_FORKS:
            run(str(program), "3", scenario)


@pytest.fixture(scope="module")
def variables(tmp_path_factory, sanitizer):
    """Variables for a process with a sanitized library: it is not Python's, so its runtime is loaded before Python."""
    library = tmp_path_factory.mktemp("sanitized") / "library.so"
    build.build(library, sanitizer)
    return {"RP2K_LAB_NATIVE": str(library), "LD_PRELOAD": str(build.sanitizer_runtime(sanitizer))}


@pytest.mark.parametrize("scenario", ["random_kernels", "many_threads", "children"])
def test_kernels(variables, sanitizer, scenario):
    if scenario == "children" and sanitizer in KERNELS_WITHOUT_FORKS:
        pytest.skip("its runtime is not for children with threads")
    run_kernels(scenario, 3, **variables)
