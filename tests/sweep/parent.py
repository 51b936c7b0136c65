"""One trial and nothing around it: `parent.py FOLDER [deaf]`; deaf: what the trial says is left unread."""

import signal
import sys
from pathlib import Path

from rp2k_lab.sweep import process

process.ENTRY = Path(__file__).with_name("standin.py")


def heard(message):
    if "deaf" in sys.argv:
        signal.pause()
    return False


process.run_trial([], Path(sys.argv[1]), {"name": "a", "tags": {}}, None, heard, lambda: None)
