"""task=sync: upload the missing parts of run records to MLflow."""

from collections.abc import Iterable
from pathlib import Path

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.quoting import shell_override
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls, shorten
from rp2k_lab.tracking.journal import Journal, JournalNotWritten, damage_line, read
from rp2k_lab.tracking.local_runs import OUTPUTS, find_journals, matches, named_folder, readable_journals
from rp2k_lab.tracking.mlflow_store import StoreUnavailable, page_location, store_uri, unreachable
from rp2k_lab.tracking.upload_state import is_uploaded, read_header
from rp2k_lab.tracking.uploader import RunRefused, Uploader


def run(config: Config, folder: Path) -> None:
    """Upload each incomplete journal under outputs/, or of the runs in `runs=`, to the request's store.

    Runs keep their times.  A run without status whose process is gone is marked KILLED; a live process uploads its
    journal itself.  Runs that are recorded for another store are left out, unless both `runs=` and `tracking.uri` are
    given: a record may be a stranger's, so it chooses no store.  What cannot be sent is named, and the others go on.

    Args:
        folder: not used; nothing is recorded.

    Raises:
        RequestError: no such run, a store or an experiment that cannot be used, or a named run that cannot be sent.
    """
    journals = _select_journals(config.runs)
    incomplete = [file for file in journals if not _is_sent(file)]
    problems: dict[str, Exception] = {}  # of an experiment, which concerns all of its runs, or of a named run
    for file in incomplete:
        header = read_header(file)
        if header["experiment"] in problems:
            continue
        try:
            _check_store(config, file, header["store"])
            print(_upload(file, config.tracking.uri, header["name"]))
        except StoreUnavailable as error:
            problems = {"": unreachable(store_uri(config.tracking.uri), error)} | problems
            break
        except RequestError as error:
            problems[header["experiment"]] = error
        except (RunRefused, DataError, JournalNotWritten) as error:
            line, _, way_out = str(error).partition("\n")
            if config.runs:
                problems[str(file)] = RequestError(f"runs={escape_controls(file.parent)}: {line}\n{way_out}".rstrip())
            else:
                print(f"skipped     {escape_controls(header['name'])}, {line}" + (f"; {way_out}" if way_out else ""))
    print(f"{sum(map(_is_sent, incomplete))} sent, {len(journals) - len(incomplete)} sent before")
    for error in [*problems.values()][1:]:
        print(f"not sent    {str(error).splitlines()[0]}")
    for error in problems.values():
        raise error


def _check_store(config: Config, file: Path, recorded: str | None) -> None:
    """Raise RunRefused unless a run goes to the request's store."""
    store = redact(store_uri(config.tracking.uri))
    if recorded in (None, store) or (config.runs and config.tracking.uri):
        return
    missing = ("runs", file.parent) if config.tracking.uri else ("tracking.uri", recorded)
    shown = shorten(escape_controls(recorded or ""), 200)
    raise RunRefused(f"recorded for {shown}\nadd {shell_override(*missing)} to send it here")


def _upload(file: Path, uri: str | None, name: str) -> str:
    """Upload one journal; return a line about the result."""
    try:
        journal = Journal(file)
    except RequestError:
        return f"running     {escape_controls(name)}: its own process sends it"
    damaged: list[int] = []
    try:
        uploader = Uploader(file, uri)
        uploader.upload(is_over=True, until=journal.sync())
        for _ in read(file, damaged=damaged):
            pass
    finally:
        journal.close()
    note = f"; {damage_line(file, damaged)}" if damaged else ""
    page = page_location(uri, uploader.experiment_id, uploader.run_id)
    return f"sent        {escape_controls(name)}: {page}{note}"


def _select_journals(references: Iterable[str]) -> list[Path]:
    """Return the journals of the referenced folders and runs (id, id prefix or name); by default all under outputs/.

    Raises:
        RequestError: a reference without a journal.
        DataError: the only journal in a folder is damaged.
    """
    if not references:
        return readable_journals(OUTPUTS)
    selected: dict[Path, None] = {}
    for reference in references:
        files = _find(reference)
        if not files:
            raise RequestError(
                f"runs={reference}: no run under outputs/ has this id or name, and no such folder holds one\n"
                "use the run's folder, or leave out runs= for all under outputs/"
            )
        selected |= dict.fromkeys(files)
    return list(selected)


def _find(reference: str) -> list[Path]:
    if folder := named_folder(reference):
        return find_journals(folder)
    return [file for file in readable_journals(OUTPUTS) if matches(file, reference)]


def _is_sent(file: Path) -> bool:
    try:
        return is_uploaded(file)
    except OSError:  # removed meanwhile, or its disk
        return False
