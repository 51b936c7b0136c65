"""The thread that uploads a run's journal during training, which never waits for the store."""

import logging
import threading
import time
from importlib import import_module

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.progress import activity
from rp2k_lab.tracking.journal import Journal, JournalNotWritten
from rp2k_lab.tracking.mlflow_store import StoreUnavailable, error_line
from rp2k_lab.tracking.uploader import END_SECONDS, RunRefused, Uploader

log = logging.getLogger(__name__)

# How long a run waits for a silent server: at its start, and after a signal; at its end: END_SECONDS.
START_SECONDS, STOP_SECONDS = 5.0, 5.0
_NO_ANSWER = "no answer so far"


class UploadThread:
    """Uploads a run's journal periodically, so that training never waits for the store.

    Attributes:
        problem: why the last upload is incomplete (one line), or None.

    Args:
        journal: synced to the disk before each upload.
        uploader: None: only sync.
        seconds: the period.
    """

    def __init__(self, journal: Journal, uploader: Uploader | None, seconds: float):
        self.problem: str | None = None
        self._warned = False
        self._journal, self._uploader, self._seconds = journal, uploader, seconds
        self._request_error: RequestError | None = None
        self._attempted, self._closing, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._waiting: list[threading.Event] = []
        self._thread = threading.Thread(target=self._run, daemon=True, name="tracking")

    @activity("starting MLflow")
    def start(self) -> None:
        """Start the thread; wait up to START_SECONDS for the run's creation.

        Raises:
            RequestError: the store is impossible, or refuses access.
        """
        local = self._uploader is None or self._uploader.local
        if not local:
            import_module("mlflow")  # seconds of this machine's time, not of the server's
        self._thread.start()
        if not self._attempted.wait(None if local else START_SECONDS):
            self._fail(_NO_ANSWER)
        if self._request_error:
            raise self._request_error

    @activity("uploading the run to MLflow")
    def deliver(self) -> None:
        """Upload now; wait up to START_SECONDS unless the last upload failed."""
        done = threading.Event()
        self._waiting.append(done)
        self._wake.set()
        if not self.problem:
            done.wait(START_SECONDS)

    @activity("uploading the run to MLflow")
    def close(self, at_once: bool) -> None:
        """Upload the rest and stop the thread.

        Args:
            at_once: wait at most STOP_SECONDS for a server; otherwise as long as it answers.
        """
        self._closing.set()
        self._wake.set()
        uploader = self._uploader
        patient = uploader if uploader is not None and (uploader.local or not at_once) else None
        until = time.monotonic() + (END_SECONDS if patient else STOP_SECONDS)
        while self._thread.is_alive() and time.monotonic() < until:
            self._thread.join(0.1)
            if patient:
                until = max(until, patient.busy_until)
        if self._thread.is_alive():
            self.problem = self.problem or "no answer"

    def _run(self) -> None:
        while True:
            self._wake.clear()
            # Read the flags first: whatever was appended before them is uploaded below.
            closing, waiting, self._waiting = self._closing.is_set(), self._waiting, []
            self._upload()
            self._attempted.set()
            for done in waiting:
                done.set()
            if closing or self._request_error:
                return
            self._wake.wait(self._seconds)

    def _upload(self) -> None:
        try:
            synced = self._journal.sync()
            if self._uploader:
                self._uploader.upload(until=synced)
            self.problem = None
        except RequestError as error:
            if self._attempted.is_set() or self._warned:  # access was granted before, or the answer came late
                self._fail(error_line(error))
            else:
                self._request_error, self.problem = error, error_line(error)
        except (RunRefused, JournalNotWritten, DataError) as error:
            self._fail(error_line(error), "tracking: nothing more is uploaded")
        except (StoreUnavailable, OSError) as error:
            self._fail(error_line(error))

    def _fail(self, reason: str, what: str = "tracking: the store does not answer; the upload continues later") -> None:
        if not self._warned or self.problem == _NO_ANSWER:  # now the reason is known
            log.warning("%s (%s)", what, reason)
        self._warned, self.problem = True, reason
