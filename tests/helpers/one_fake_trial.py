"""Run one fake trial: `one_fake_trial.py FOLDER read|unread`; unread leaves later messages of the trial unread."""

import signal
import sys
from pathlib import Path

from rp2k_lab.sweep import trial_process

trial_process.ENTRY = Path(__file__).with_name("fake_run.py")


def on_message(message):
    if "unread" in sys.argv:
        signal.pause()
    return False


trial_process.run_trial([], Path(sys.argv[1]), {"name": "a", "tags": {}}, None, on_message, lambda: None)
