"""A run repeated with another number of cores says so before it trains."""

import os

import psutil
import pytest

pytestmark = pytest.mark.slow


def test_verify_on_one_core_names_the_number_before_it_trains(first_run, later_store, start):
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("this process may use one core: nothing to compare with")
    command = start("runs=last", "task.verify=true", "tracking=offline", uri=later_store.uri)
    psutil.Process(command.process.pid).cpu_affinity([min(cores)])
    code, out, err = command.wait()
    lines = [line for line in out.splitlines() if line.startswith("environment: ")]
    assert lines == [f"environment: the run has cores={len(cores)}, now 1"], out + err
    # MindSpore splits its sums by cores: the first step's loss is equal, later ones need not be.
    assert code in (0, 1), err
    assert "verified" in out if code == 0 else "metrics differ" in err
