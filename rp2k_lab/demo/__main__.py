"""`python -m rp2k_lab.demo RUN`: serve the demo page of a run on this machine until interrupted."""

import argparse
import logging
import sys

from rp2k_lab import IGNORED_VARIABLES
from rp2k_lab.cli.app import report_error
from rp2k_lab.core.environment import prepare_process
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.signals import claim_signals
from rp2k_lab.core.streams import keep_standard_streams
from rp2k_lab.core.text import escape_controls
from rp2k_lab.demo.jobs import Jobs
from rp2k_lab.demo.server import LOOPBACK, listen, serve_in_thread


def main(arguments: list[str]) -> int:
    """Load the run, serve its page, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rp2k_lab.demo", allow_abbrev=False)
    parser.add_argument("run", help="id (6 characters are enough) or name of a run, its folder, last or best")
    parser.add_argument("--port", default="8000", help="port on 127.0.0.1, 0 is a free one; default: 8000")
    parser.add_argument("--uri", help="the MLflow store; default: the clone's store")
    request = parser.parse_args(arguments)
    try:
        if not (request.port.isdecimal() and int(request.port) < 2**16):
            raise RequestError(f"--port={escape_controls(request.port)}: is no port\nuse --port 8000")
        jobs = Jobs()
        with listen(int(request.port), jobs) as server:  # a port in use is reported before a network is loaded
            from rp2k_lab.demo.recognizer import Recognizer  # MindSpore takes seconds

            logging.basicConfig(level=logging.WARNING)
            with Recognizer(request.uri or None, request.run) as recognizer:
                recognizer.warm_up()
                server.recognizer = recognizer
                serve_in_thread(server)
                print(f"run          {escape_controls(recognizer.about()['run'])}")
                print(f"demo page    http://{LOOPBACK}:{server.server_port}  (Ctrl-C stops it)", flush=True)
                jobs.run()
    except KeyboardInterrupt as error:
        code = report_error(error)
        return 0 if code == 130 else code
    except Exception as error:
        return report_error(error)
    return 0


if __name__ == "__main__":
    keep_standard_streams()
    prepare_process(IGNORED_VARIABLES)
    claim_signals()
    sys.exit(main(sys.argv[1:]))
