"""The second line of every message has been tried: its options, choices, flags, commands, packages and pages exist.

The code is read for the messages, so that a new one is checked, too.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache

import pytest

from rp2k_lab import COMMAND, PROJECT, SERVER_COMMAND
from rp2k_lab.cli.command_line import FLAGS
from rp2k_lab.config.choices import choices, complete, defaults_of, flatten, groups, root_defaults
from rp2k_lab.config.overrides import _LAUNCHER_PACKAGES, hydra_keys
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from tests.helpers.run_commands import run_all
from tests.reliability.test_guard_commands import complete as complete_command
from tests.reliability.test_guard_commands import folder, read_list  # noqa: F401  a fixture

_ANY = "…"  # in place of a value of a message
_OPTION = re.compile(r"(?<![\w./=…-])([a-z_]+(?:[./][a-z_]+)*)=((?:\[[^\]]*\]|[^\s,;:)\"'])*)")
_VERBS = (
    "use add leave choose give name set run start train install uninstall write remove rename restore replace make",
    "fill copy correct free wait open pass register quote stop try download extract export check delete move save read",
    "put list unpack convert split create log keep connect upload join mount resume lower raise reduce send store",
    "compare see end call annotate arrange load unset update",
    "did",  # you mean
)
PACKAGES = {"psycopg[binary]", "psycopg2-binary", "mysqlclient", *_LAUNCHER_PACKAGES.values()}


def ways_out() -> Iterator[tuple[str, str]]:
    """Yield (place, second line) of the messages in the code; values are an ellipsis.

    A message is a text of two lines, or `_refuse(what, way_out)`, or the text of a name with `way_out` or `hint`.
    """
    for file in sorted([*(PROJECT / "rp2k_lab").rglob("*.py"), *(PROJECT / "hydra_plugins").glob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            line = None
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_refuse":
                line = _text(node.args[1])
            elif isinstance(node, ast.Assign) and re.search(
                "way_out|hint", ast.unparse(node.targets[0]), re.IGNORECASE
            ):
                line = _text(node.value)
            elif (text := _text(node)) and re.match(r"[\w…][^\n]*: [^\n]+\n[a-z][^\n]*$", text):
                line = text.split("\n")[1]
            if line and re.match("[a-z]", line):
                yield f"{file.relative_to(PROJECT)}:{node.lineno}", line


def _text(node: ast.AST) -> str | None:
    """Return the text of a literal or f-string with an ellipsis for each value that is no constant."""
    known = {"COMMAND": COMMAND, "SERVER_COMMAND": SERVER_COMMAND}
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(part.value)
        else:
            name = part.value.id if isinstance(part.value, ast.Name) else ""
            parts.append(known.get(name, _ANY))
    return "".join(parts)


@cache
def owners() -> dict[str, list[tuple[str, str]]]:
    """Return the (group, choice) that have a key, for every key that a request can have."""
    found: dict[str, list[tuple[str, str]]] = {key: [] for key in (*root_defaults(), *groups())}
    for group in groups():
        for choice in choices(group):
            for key, _ in flatten(defaults_of(group, choice)):
                prefix = group.replace("/", ".")
                found.setdefault(f"{prefix}.{key}", []).append((group, choice))
    return found


def problem_of_option(key: str, value: str) -> str | None:
    """Return why `key=value` is not accepted, or None."""
    if key in ("hydra/sweeper", "hydra/launcher") or key in hydra_keys():
        return None
    if key not in owners():
        return f"there is no key {key}"
    if re.search(r"[…<>A-Z(]|^$", value):  # to be filled in, or a search
        return None
    if key in groups():
        unknown = [name for name in re.split(r"[\[\],]+", value) if name and name not in choices(key)]
        return f"{key} has no choice {unknown[0]}" if unknown else None
    if not owners()[key]:  # a root key
        return None
    return None if any(_is_accepted(key, value, group, choice) for group, choice in owners()[key]) else "not accepted"


def _is_accepted(key: str, value: str, group: str, choice: str) -> bool:
    """Return whether a configuration with the key's choice takes the value; other keys of it may be missing."""
    if "/" in group or group == "callback":
        return True
    settings = root_defaults()
    node = settings[group] = complete(group, {"name": choice})
    *path, last = key.split(".")[1:]
    for name in path:
        node = node[name]
    from omegaconf import OmegaConf

    node[last] = OmegaConf.from_dotlist([f"x={value}"])["x"]
    try:
        parse(settings)
    except RequestError as error:
        return not str(error).startswith(f"{key}=")
    return True


def test_there_are_many():
    assert len(list(ways_out())) > 100


def test_options_exist_and_take_their_values():
    wrong = [
        f"{place}: {problem}: {line}"
        for place, line in ways_out()
        for key, value in _OPTION.findall(line)
        if key not in ("key", "x", "num_processes") and (problem := problem_of_option(key, value))
    ]
    assert not wrong, "\n".join(wrong)


def test_flags_targets_pages_and_packages_exist():
    flags = {name for names in FLAGS for name in names} | {
        "--run",
        "--uri",
        "--port",
    }  # the last: make notebooks and demo
    targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    packages = PACKAGES | {f"{project['name']}[{extra}]" for extra in project["optional-dependencies"]}
    extras = {f".[{extra}]" for extra in project["optional-dependencies"]}
    wrong = []
    for place, line in ways_out():
        named = [("make", name, targets) for name in re.findall(r"(?:run |use |\()make (\w+)", line)]
        named += [("page", name, ()) for name in re.findall(r"docs/\w+\.md", line) if not (PROJECT / name).is_file()]
        if "pip install" in line:
            named += [("package", name, packages) for name in re.findall(r"pip install '?([a-zA-Z][\w.\[\]-]*)", line)]
            named += [("extra", name, extras) for name in re.findall(r"-e '(\S+)'", line)]
        elif "msrun" not in line:
            named += [("flag", name, flags) for name in re.findall(r"(?<![\w-])--?[a-z][\w-]*", line)]
        wrong += [f"{place}: {kind} {name}" for kind, name, known in named if name not in known]
    assert not wrong, "\n".join(wrong)


def test_they_are_imperatives():
    verbs = set(" ".join(_VERBS).split())
    lines = [(place, re.sub(r"^(?:it|the) [^:]*: ", "", line)) for place, line in ways_out() if not line.endswith(".")]
    wrong = [f"{place}: {line}" for place, line in lines if line.split()[0].strip(",") not in verbs | {"…"}]
    assert not wrong, "\n".join(wrong)


def apply(arguments: list[str], message: str) -> list[str] | None:
    """Return a command after the advice of its message; None if a person must fill something in."""
    first, _, advice = message.strip().partition("\n")
    named = first.split(":")[0].partition("=")[0].lstrip("+")
    place = next((i for i, a in enumerate(arguments) if a.partition("=")[0].lstrip("+") == named), None)
    if place is None or re.search(r"[<>…]", advice):
        return None
    changed = list(arguments)
    if advice == "leave out the +":
        changed[place] = changed[place].lstrip("+")
    elif advice == "leave it out":
        del changed[place]
    elif match := re.match(r"(?:choose|use) one of ([\w/]+)", advice):
        is_key = "key" in first or "group" in first
        key, _, value = changed[place].partition("=")
        changed[place] = f"{match[1]}={value}" if is_key else f"{key}={match[1]}"
    elif match := re.match(r"did you mean ([\w.]+)", advice):
        changed[place] = f"{match[1]}={changed[place].partition('=')[2]}"
    elif match := re.match(r"(?:use|add|leave it out, or use) (-m [\w./]+=\w+|-m|[\w./]+=[\w.,\[\]/]+)", advice):
        key = match[1].split()[-1].partition("=")[0]
        changed = [a for a in changed if a.partition("=")[0] not in (key, named if advice.startswith("use") else key)]
        changed += match[1].split()
    else:
        return None
    return changed


@pytest.mark.slow
@pytest.mark.soak
def test_following_the_advice_of_every_wrong_command_removes_the_mistake(folder):  # noqa: F811
    wrong = [each for each in read_list() if each.exit_code == 2]
    commands = [complete_command(i, each) for i, each in enumerate(wrong)]
    messages = [message for _, message in run_all(commands, folder)]
    pairs = [(command, apply(command, message), message) for command, message in zip(commands, messages, strict=True)]
    tried = [(changed, message) for _, changed, message in pairs if changed]
    results = run_all([[*changed, "epochs=0"] for changed, _ in tried], folder)  # the next mistake, so that none trains
    same = [
        f"{changed}\n    {before!r}"
        for (changed, before), (_, after) in zip(tried, results, strict=True)
        if after.split("\n")[0] == before.split("\n")[0]
    ]
    assert len(tried) > 60
    assert not same, "\n".join(same)
