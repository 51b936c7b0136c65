"""The files of a run's folder, damaged and hostile: every reader answers in two lines that name the file."""

import os
import random
import resource
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from rp2k_lab import PROJECT
from rp2k_lab.ablation.compare_runs import load_run
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.tracking.local_runs import check_unused, is_resumable
from rp2k_lab.tracking.run_files import CONFIG, damage_named, read_settings, read_text, real_path
from rp2k_lab.tracking.run_lookup import find_run
from rp2k_lab.tracking.run_record import read_record
from rp2k_lab.tracking.run_restore import restore
from rp2k_lab.tracking.tracker import MlflowTracker
from rp2k_lab.tracking.upload_state import is_uploaded

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
# What to write in place of a configuration, and a part of the reason.
NO_CONFIGURATIONS = {
    "bomb": (BOMB, "line 1 has a YAML alias"),
    "merge bomb": ("a: &a {x: 1}\nb: {<<: *a}\n", "YAML alias"),
    "tag": ("a: !!python/object/apply:os.system ['touch pwned']\n", "line 1 has a YAML tag"),
    "harmless tag": ("a: !!set {x}\n", "line 1 has a YAML tag"),
    "date": ("seed: 2026-01-01\n", "a value is a date"),
    "empty": ("", "no mapping"),
    "list": ("[1, 2]\n", "no mapping"),
    "text": ("hello\n", "no mapping"),
    "number as key": ("1: 2\n", "a key is no text"),
    "two documents": ("a: 1\n---\nb: 2\n", "damaged"),
    "half": ("dataset: {name: [rp2k\n", "line "),
    "bytes": (b"\xff\xfe\x00", "no UTF-8"),
    "NUL": (b"a: 1\0", "damaged"),
    "deep": ("a: " + "[" * 5000, "nested deeper than 20 levels"),
    "deep mapping": ("\n".join(" " * depth + "a:" for depth in range(50)), "nested deeper than 20 levels"),
    "large": ("#" * 2**18 + "\na: 1\n", "larger than 256 KiB"),
}


@contextmanager
def two_lines_that_name(file):
    """Expect RequestError or DataError with at most two lines, the first of which names the file."""
    with pytest.raises((RequestError, DataError)) as error:
        yield error
    lines = str(error.value).splitlines()
    assert len(lines) <= 2, lines
    assert str(file) in lines[0], lines
    assert max(map(len, lines)) < 600


@pytest.fixture(scope="module")
def recorded(compose):
    return parse(compose("aug=cutout")).model_dump(mode="json", exclude={"ablation", "scale"})


def write_run(folder, recorded):
    """Write the record of a finished run that evaluated test; return the folder."""
    settings = SimpleNamespace(name="offline", uri=None, experiment="study", flush_seconds=3600)
    with MlflowTracker(settings, "run", folder) as tracker:
        tracker.set_tags({"task": "train", "config_fingerprint": "3:0"})
        tracker.log_params({"seed": 1})
        for name in ("checkpoints", "test"):
            (folder / name).mkdir()
        (folder / CONFIG).write_text(yaml.safe_dump(recorded, sort_keys=False), "utf-8")
        (folder / "classes.txt").write_text("a\n冰炫\n", "utf-8")
        (folder / "checkpoints" / "best.ckpt").write_bytes(b"weights")
        paths = [f"test/{number}.jpg" for number in range(6)]
        predictions = pd.DataFrame({"path": paths, "true": "a", "correct": True})
        predictions.to_parquet(folder / "test" / "predictions.parquet")
        pd.DataFrame({"class": ["a"], "group": ["head"]}).to_parquet(folder / "test" / "per_class.parquet")
        tracker.log_metrics({"val/top1": 0.5}, 1)
        tracker.log_artifact(folder / CONFIG)
    return folder


@pytest.mark.parametrize("kind", NO_CONFIGURATIONS)
def test_text_that_is_no_configuration_is_named_with_its_reason(tmp_path, kind):
    content, reason = NO_CONFIGURATIONS[kind]
    (tmp_path / CONFIG).write_bytes(content if isinstance(content, bytes) else content.encode())
    limit, started = resource.getrlimit(resource.RLIMIT_AS), time.perf_counter()
    with two_lines_that_name(tmp_path / CONFIG) as error:
        read_settings(tmp_path)
    assert reason in str(error.value)
    assert time.perf_counter() - started < 10, limit


def test_only_regular_files_below_the_folder_are_read(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "own.txt").write_text("a\r\nb")
    (folder / "within.txt").symlink_to("own.txt")
    (folder / "link.txt").symlink_to("../secret.txt")
    (folder / "loop.txt").symlink_to("loop.txt")
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.txt")
    (tmp_path / "run_by_link").symlink_to(folder)
    for name in ("own.txt", "within.txt"):
        assert read_text(folder, name) == read_text(tmp_path / "run_by_link", name) == "a\r\nb"
    for name in (
        "link.txt",
        "../secret.txt",
        "linked/secret.txt",
        "pipe.txt",
        "loop.txt",
        str(tmp_path / "secret.txt"),
    ):
        with pytest.raises(DataError) as error:
            read_text(folder, name)
        assert len(str(error.value).splitlines()) == 2
    with pytest.raises(FileNotFoundError):
        read_text(folder, "absent.txt")
    with two_lines_that_name(folder):
        real_path(folder, "..")


def test_errors_of_a_library_become_one_line(tmp_path):
    for error in (
        KeyError("a\x1b[2Jb"),
        ValueError("first\nsecond"),
        TypeError(),
        RecursionError("deep"),
        OSError(5, "I/O"),
    ):
        with two_lines_that_name(tmp_path / "file") as caught, damage_named(tmp_path / "file"):
            raise error
        assert "\x1b" not in str(caught.value)


def tampered(recorded, count):
    """Yield (what was changed, the configuration) with one value replaced by another type, or removed."""
    values = (None, "x", "../../x", -1, 10**400, float("nan"), [], {}, [[[]]], {"name": {}}, True)
    source = random.Random(17)
    paths = [(key,) for key in recorded]
    paths += [(key, inner) for key, value in recorded.items() if isinstance(value, dict) for inner in value]
    for number in range(count):
        path, value = source.choice(paths), source.choice(values)
        changed = {key: dict(inner) if isinstance(inner, dict) else inner for key, inner in recorded.items()}
        node = changed[path[0]] if len(path) > 1 else changed
        if number % 4:
            node[path[-1]] = value
        else:
            del node[path[-1]]
        yield f"{'.'.join(path)}: {value if number % 4 else 'removed'}", changed


@pytest.mark.parametrize("count", [pytest.param(24, id="few"), pytest.param(200, id="many", marks=pytest.mark.soak)])
def test_tampered_configurations_are_read_or_named(recorded, compose, tmp_path, count):
    """Each is a valid YAML text; with a value that today's keys allow it is a configuration."""
    from hydra import initialize_config_dir

    folder, outcomes = write_run(tmp_path / "run", recorded), {"read": 0, "named": 0}
    requests = [compose("task=evaluate", f"runs={folder}"), compose(f"runs={folder}", "task.resume=continue")]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        for what, changed in tampered(recorded, count):
            (folder / CONFIG).write_text(yaml.safe_dump(changed, sort_keys=False), "utf-8")
            readers = [lambda: read_record(folder), lambda: load_run(None, str(folder), tmp_path)]
            readers += [lambda composed=composed: restore(parse(composed), composed, []) for composed in requests]
            for read in readers:
                try:
                    read()
                    outcomes["read"] += 1
                except (RequestError, DataError) as error:
                    lines = str(error).splitlines()
                    assert len(lines) <= 2, (what, lines)
                    assert str(folder) in lines[0], (what, lines)
                    outcomes["named"] += 1
                except Exception as error:
                    raise AssertionError(what) from error
    assert min(outcomes.values()) > count // 3, outcomes


def mutate(content, source):
    """Return bytes with one to three changes: a flipped bit, a lost, doubled or zeroed part, or other bytes."""
    changed = bytearray(content)
    for _ in range(source.randint(1, 3)):
        at, size = source.randrange(len(changed) + 1), source.randint(1, 40)
        change = source.randrange(5)
        if change == 0 and at < len(changed):
            changed[at] ^= 1 << source.randrange(8)
        elif change == 1:
            del changed[at : at + size]
        elif change == 2:
            changed[at:at] = changed[at : at + size]
        elif change == 3:
            changed[at : at + size] = bytes(size)
        else:
            changed[at:at] = source.randbytes(size)
    return bytes(changed)


@pytest.mark.parametrize("count", [pytest.param(8, id="few"), pytest.param(400, id="many", marks=pytest.mark.soak)])
def test_mutated_bytes_of_a_run_are_read_or_refused(recorded, tmp_path, count):
    """Each file of a run's folder in turn; the journal of a named run is opened, too."""
    folder, source = write_run(tmp_path / "run", recorded), random.Random(5)
    (journal,) = folder.glob("*.journal")
    run_id = journal.stem
    settings = SimpleNamespace(name="offline", uri=None, experiment="study", flush_seconds=3600)

    def reopen():
        with MlflowTracker(settings, "run", folder, run_id) as tracker:
            tracker.rewind({"val/top1": 0}, 1)
            tracker.log_metrics({"val/top1": 0.5}, 1)

    readers = [
        lambda: find_run(None, str(folder), tmp_path),
        lambda: load_run(None, str(folder), tmp_path),
        lambda: read_record(folder),
        lambda: check_unused(folder),
        lambda: is_resumable(folder),
        lambda: is_uploaded(journal),
        reopen,
    ]
    messages = []
    originals = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for number in range(count):
        for file in (journal, folder / CONFIG, folder / "classes.txt", *folder.glob("test/*.parquet")):
            content = mutate(originals[file], source)
            for read in readers:
                file.write_bytes(content)
                try:
                    read()
                except (RequestError, DataError) as error:
                    messages.append(str(error))
                except Exception as error:
                    (tmp_path / f"found-{file.name}").write_bytes(content)
                    raise AssertionError(f"{file.name}, number {number}, {content[:2000]!r}") from error
            file.write_bytes(originals[file])
    assert len(messages) > count
    assert max(len(message.splitlines()) for message in messages) <= 2
