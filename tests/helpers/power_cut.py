"""Record what code does to the files of a folder, and build the folders that a power cut may leave.

POSIX promises little: what `fsync` of a file returned for is on the disk under the names that `fsync` of its folders
returned for.  Anything else is lost, kept or kept in part, in any order: writes, truncations, new and removed names,
and renames before the content of the renamed file.  A rename alone is whole.

`Recorder` compares the folder before and after each call that changes or flushes files, so that it also sees what other
languages write, as one write.  Nothing is flushed meanwhile: it would take most of the time.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

# Functions of `os` that change or flush files, as pathlib and shutil call them.
CALLS = (
    "open", "write", "pwrite", "fsync", "fdatasync", "truncate", "ftruncate", "posix_fallocate", "rename", "replace",
    "unlink", "remove", "mkdir", "rmdir", "link", "symlink",
)  # fmt: skip
ROOT = 0
# A disk writes a sector whole.
SECTOR = 512


@dataclass
class Node:
    """A file, folder or link: `names` of a folder's nodes, `content` of a file, `target` of a link."""

    kind: str
    names: dict[str, int] = field(default_factory=dict)
    content: bytes = b""
    target: str = ""


@dataclass
class Event:
    """What happened to a node.

    Attributes:
        kind: write (at `offset`), truncate (to `offset` bytes), names (changes of folders), sync, mark.
        names: folder to {name: node, or None: removed}.
        mark: what the code under test says, such as (saved, 3).
    """

    kind: str
    node: int = ROOT
    offset: int = 0
    data: bytes = b""
    names: dict[int, dict[str, int | None]] = field(default_factory=dict)
    mark: Any = None


class Recorder:
    """The events in a folder between `__enter__` and `__exit__`.

    Attributes:
        events: in order.
        kinds: node to its kind, and of a link to its target.
    """

    def __init__(self, folder: Path):
        self.folder, self.events = folder, []
        self.kinds: dict[int, tuple[str, str]] = {ROOT: ("folder", "")}
        self._ids: dict[int, int] = {folder.stat().st_ino: ROOT}  # inode to node
        self._tree: dict[int, Node] = {ROOT: Node("folder")}
        self._scan()
        self.start = {node: Node(n.kind, dict(n.names), n.content, n.target) for node, n in self._tree.items()}
        self.events.clear()

    def mark(self, *mark: Any) -> None:
        """Record what the code under test promises from here on."""
        self._scan()
        self.events.append(Event("mark", mark=mark))

    def __enter__(self):
        self._originals = {name: getattr(os, name) for name in CALLS}
        for name, call in self._originals.items():
            setattr(os, name, self._recorded(name, call))
        return self

    def __exit__(self, *error):
        for name, call in self._originals.items():
            setattr(os, name, call)
        self._scan()

    def _recorded(self, name: str, call: Callable) -> Callable:
        def recorded(*arguments, **options):
            self._scan()  # what was written without these calls
            result = call(*arguments, **options)
            self._scan()
            return result

        def synced(descriptor: int) -> None:
            self._scan()
            if (node := self._ids.get(os.fstat(descriptor).st_ino)) is not None:
                self.events.append(Event("sync", node))

        return synced if name in ("fsync", "fdatasync") else recorded

    def _scan(self) -> None:
        """Append events for the differences between the folder and its last state."""
        tree = self._read()
        names = {}
        for node, new in tree.items():
            old = self._tree.get(node, Node(new.kind)).names
            changed = {name: new.names.get(name) for name in old | new.names if old.get(name) != new.names.get(name)}
            if changed:
                names[node] = changed
        if names:
            self.events.append(Event("names", names=names))
        for node, new in tree.items():
            old = self._tree.get(node, Node(new.kind)).content
            if new.content.startswith(old) and new.content != old:
                self.events.append(Event("write", node, len(old), new.content[len(old) :]))
            elif old.startswith(new.content) and new.content != old:
                self.events.append(Event("truncate", node, len(new.content)))
            elif new.content != old:
                self.events += [Event("truncate", node, 0), Event("write", node, 0, new.content)]
        self._tree = tree

    def _read(self) -> dict[int, Node]:
        tree, ids, folders = {}, {}, [self.folder]
        for folder in folders:
            number = self._id(folder.stat().st_ino, ids, "folder")
            tree[number] = Node("folder")
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                kind = "link" if entry.is_symlink() else "folder" if entry.is_dir() else "file"
                target = os.readlink(entry.path) if kind == "link" else ""
                child = tree[number].names[entry.name] = self._id(entry.inode(), ids, kind, target)
                if kind == "folder":
                    folders.append(Path(entry.path))
                else:
                    content = Path(entry.path).read_bytes() if kind == "file" else b""
                    tree[child] = Node(kind, content=content, target=target)
        self._ids = ids  # a removed file's inode may be used again
        return tree

    def _id(self, inode: int, ids: dict[int, int], kind: str, target: str = "") -> int:
        if inode not in ids:
            known = self._ids.get(inode)
            if known is None or self.kinds[known] != (kind, target):
                known = len(self.kinds)
                self.kinds[known] = (kind, target)
            ids[inode] = known
        return ids[inode]


def cut(recorder: Recorder, before: int, random: Random, folder: Path) -> list[Any]:
    """Write one of the states that a power cut before the event number `before` may leave; return the marks until then.

    Half of the states keep the order of names, as journaling file systems do, and half keep any of them.
    """
    events = recorder.events[:before]
    nodes = {node: Node(kind, target=target) for node, (kind, target) in recorder.kinds.items()}
    for node, start in recorder.start.items():
        nodes[node] = Node(start.kind, dict(start.names), start.content, start.target)
    for event in _kept_names(events, random):
        for parent, changes in event.names.items():
            for name, child in changes.items():
                if child is None:
                    nodes[parent].names.pop(name, None)
                else:
                    nodes[parent].names[name] = child
    for node in nodes:
        nodes[node].content = _kept_content(node, nodes[node].content, events, random)
    _write(nodes, ROOT, folder)
    return [event.mark for event in events if event.kind == "mark"]


def _kept_names(events: list[Event], random: Random) -> list[Event]:
    synced: set[int] = set()
    durable = set()
    for number in reversed(range(len(events))):
        event = events[number]
        if event.kind == "sync":
            synced.add(event.node)
        elif event.kind == "names" and synced & event.names.keys():
            durable.add(number)
    pending = [n for n, event in enumerate(events) if event.kind == "names" and n not in durable]
    if random.random() < 0.5:
        kept = set(pending[: random.randint(0, len(pending))])
        if kept:  # a journal keeps all that came before
            durable |= {n for n, event in enumerate(events) if event.kind == "names" and n <= max(kept)}
    else:
        kept = {n for n in pending if random.random() < 0.5}
    return [events[n] for n in sorted(durable | kept)]


def _kept_content(node: int, content: bytes, events: list[Event], random: Random) -> bytes:
    changes = [e for e in events if e.node == node and e.kind in ("write", "truncate", "sync")]
    last = max((i for i, e in enumerate(changes) if e.kind == "sync"), default=-1)
    for number, event in enumerate(changes):
        if event.kind == "truncate" and (number < last or random.random() < 0.5):
            content = content[: event.offset].ljust(event.offset, b"\0")
        elif event.kind == "write":
            data = event.data if number < last else _torn(event.data, random)
            if data:
                content = content.ljust(event.offset, b"\0")
                content = content[: event.offset] + data + content[event.offset + len(data) :]
    return content


def _torn(data: bytes, random: Random) -> bytes:
    """Return all of a write, nothing, its start, or all with a sector of zeros."""
    way = random.randrange(4)
    if way == 3:
        start = random.randrange(0, len(data), SECTOR)
        return data[:start] + bytes(min(SECTOR, len(data) - start)) + data[start + SECTOR :]
    return data[: (len(data), 0, random.randint(0, len(data)))[way]]


def _write(nodes: dict[int, Node], node: int, path: Path) -> None:
    if nodes[node].kind == "file":
        path.write_bytes(nodes[node].content)
    elif nodes[node].kind == "link":
        path.symlink_to(nodes[node].target)
    else:
        path.mkdir()
        for name, child in nodes[node].names.items():
            _write(nodes, child, path / name)


def states(recorder: Recorder, number: int, seed: int, folder: Path) -> Iterator[tuple[int, list[Any]]]:
    """Yield `number` times a state in `folder`, deleted afterwards: the number of events before it, and their marks."""
    random = Random(seed)
    for _ in range(number):
        before = random.randint(0, len(recorder.events))
        yield before, cut(recorder, before, random, folder)
        shutil.rmtree(folder)
