"""`python run.py …` with fake trials: a worker that a test may kill, or that starts others."""

import runpy
import sys
from pathlib import Path

from rp2k_lab import PROJECT
from rp2k_lab.sweep import trial_process, worker_jobs

trial_process.ENTRY = Path(__file__).with_name("fake_run.py")
worker_jobs.ENTRY = Path(__file__).absolute()
sys.argv[0] = str(PROJECT / "run.py")
runpy.run_path(sys.argv[0], run_name="__main__")
