"""task=sync: upload the missing parts of run records to MLflow."""

from collections.abc import Iterable
from pathlib import Path

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.journal import Journal
from rp2k_lab.tracking.local_runs import OUTPUTS, find_journals, matches
from rp2k_lab.tracking.mlflow_store import StoreUnavailable, page_location, store_uri, unreachable
from rp2k_lab.tracking.uploader import Uploader, is_uploaded, read_header


def run(config: Config, folder: Path) -> None:
    """Upload each incomplete journal under outputs/, or of the runs in `runs=`.

    Runs keep their times.  A run without status whose process is gone is marked KILLED; a live process uploads its
    journal itself.  Without `tracking.uri` each goes to its recorded store, by default the clone's; with it, runs
    recorded for that store or for none, and named runs, go there.

    Args:
        folder: not used; nothing is recorded.

    Raises:
        RequestError: no such run, or a store that does not answer, after the uploads to other stores.
    """
    journals = _select_journals(config.runs)
    incomplete, errors = [file for file in journals if not is_uploaded(file)], {}
    for file in incomplete:
        name, store = _name_and_store(file)
        uri = config.tracking.uri or store
        if store not in (None, redact(store_uri(uri))) and not config.runs:
            print(f"skipped     {name}, recorded for {store}; add runs={escape_controls(file.parent)} to send it here")
        elif uri not in errors:
            try:
                print(_upload(file, uri))
            except (StoreUnavailable, RequestError) as error:
                errors[uri] = error
    print(f"{sum(map(is_uploaded, incomplete))} sent, {len(journals) - len(incomplete)} sent before")
    for uri, error in errors.items():
        raise error if isinstance(error, RequestError) else unreachable(store_uri(uri), error)


def _upload(file: Path, uri: str | None) -> str:
    """Upload one journal; return a line about the result."""
    name, _ = _name_and_store(file)
    try:
        journal = Journal(file)
    except RequestError:
        return f"running     {name}: its own process sends it"
    try:
        uploader = Uploader(file, uri)
        uploader.upload(is_over=True)
    finally:
        journal.close()
    return f"sent        {name}: {page_location(uri, uploader.experiment_id, uploader.run_id)}"


def _select_journals(references: Iterable[str]) -> list[Path]:
    """Return the journals of the referenced folders and runs (id, id prefix or name); by default all under outputs/.

    Raises:
        RequestError: a reference without a journal.
    """
    if not references:
        return find_journals(OUTPUTS)
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
    if Path(reference).is_dir():
        return find_journals(Path(reference))
    return [file for file in find_journals(OUTPUTS) if matches(file, reference)]


def _name_and_store(file: Path) -> tuple[str, str | None]:
    """Return a run's name and its recorded store."""
    header = read_header(file)
    return header["name"], header["store"]
