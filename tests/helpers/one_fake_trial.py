"""One trial and nothing around it: `one_fake_trial.py FOLDER [deaf]`; deaf: what the trial says is left unread."""

import signal
import sys
from pathlib import Path

from rp2k_lab.sweep import trial_process

trial_process.ENTRY = Path(__file__).with_name("fake_run.py")


def heard(message):
    if "deaf" in sys.argv:
        signal.pause()
    return False


trial_process.run_trial([], Path(sys.argv[1]), {"name": "a", "tags": {}}, None, heard, lambda: None)
