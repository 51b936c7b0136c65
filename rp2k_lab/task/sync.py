"""task=sync: send what runs have in their folders and the store has not got."""

from collections.abc import Iterable
from pathlib import Path

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.journal import Journal
from rp2k_lab.tracking.local_runs import OUTPUTS, answers, journals
from rp2k_lab.tracking.mlflow_store import StoreAway, how_to_see, store_uri, unreachable
from rp2k_lab.tracking.uploader import Uploader, header_of, is_sent


def run(config: Config, folder: Path) -> None:
    """Send every journal under outputs/, or of the runs that `runs=` names, that no store has all of.

    Runs keep their times.  One whose process is gone without a word is marked KILLED; one that still runs sends its
    journal itself.  Without `tracking.uri` each goes to the store it was meant for, one that was meant for none to the
    clone's own; with it, to that one go the runs meant for it or for none, and those that are named.

    Args:
        folder: not used; nothing is recorded.

    Raises:
        RequestError: no such run, or a store that does not answer; what goes to others is sent first.
    """
    found = _journals(config.runs)
    waiting, away = [file for file in found if not is_sent(file)], {}
    for file in waiting:
        name, meant = _of(file)
        uri = config.tracking.uri or meant
        if meant not in (None, redact(store_uri(uri))) and not config.runs:
            print(
                f"left        {name}, meant for {meant}; runs={escape_controls(file.parent)} sends it here all the same"
            )
        elif uri not in away:
            try:
                print(_send(file, uri))
            except (StoreAway, RequestError) as error:
                away[uri] = error
    print(f"{sum(map(is_sent, waiting))} sent, {len(found) - len(waiting)} had been sent before")
    for uri, error in away.items():
        raise error if isinstance(error, RequestError) else unreachable(store_uri(uri), error)


def _send(file: Path, uri: str | None) -> str:
    """Send one; returns the line that says what came of it."""
    name, _ = _of(file)
    try:
        journal = Journal(file)
    except RequestError:
        return f"running     {name}: its own process sends it"
    try:
        sender = Uploader(file, uri)
        sender.send(is_over=True)
    finally:
        journal.close()
    return f"sent        {name}: {how_to_see(uri, sender.sent.experiment_id, sender.sent.run_id)}"


def _journals(references: Iterable[str]) -> list[Path]:
    """Those of outputs/, or below the folders and of the runs that are named, by id (six or more characters) or name.

    Raises:
        RequestError: one that there is not.
    """
    if not references:
        return journals(OUTPUTS)
    found: dict[Path, None] = {}
    for reference in references:
        of_it = _named(reference)
        if not of_it:
            raise RequestError(
                f"runs={reference}: no run under outputs/ has this id or name, and no such folder holds one\n"
                "name the run's folder, or leave runs= out for all under outputs/"
            )
        found |= dict.fromkeys(of_it)
    return list(found)


def _named(reference: str) -> list[Path]:
    if Path(reference).is_dir():
        return journals(Path(reference))
    return [file for file in journals(OUTPUTS) if answers(file, reference)]


def _of(file: Path) -> tuple[str, str | None]:
    """(a run's name, the store that it was meant for)."""
    header = header_of(file)
    return header["name"], header["store"]
