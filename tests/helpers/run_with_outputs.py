"""`python run.py` that looks for earlier runs in another folder: python run_with_outputs.py FOLDER <arguments>.

Without a store a run is found by its journal below `outputs/` of the clone, where other tests' runs are too.
"""

import runpy
import sys
from pathlib import Path

from rp2k_lab import PROJECT
from rp2k_lab.tracking import local_runs

local_runs.OUTPUTS = Path(sys.argv.pop(1))
sys.argv[0] = str(PROJECT / "run.py")
runpy.run_path(sys.argv[0], run_name="__main__")
