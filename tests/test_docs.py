"""README, docs/ and the words of the whole repository."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from rp2k_lab import PROJECT
from rp2k_lab.cli.help import group_help
from rp2k_lab.config.reference import reference
from rp2k_lab.config.schema import parse

PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
# What a newcomer must translate; CONTRIBUTING.md has the rules.  Committed results keep their words.
HOUSE_WORDS = re.compile(
    r"goes on\b|\bgo on with|\bgoing on\b|\bgone on\b|no numbers? any ?more|\bof (its|their|our|his) own\b|left alone"
    r"|\banew\b|spokesman|\bas of\b|\bthat of the\b|without a word|further words|\btold by\b|stands twice|\bin words\b",
    re.IGNORECASE,
)
BRITISH = re.compile(
    r"colour|neighbour(?!_share)|behaviour|flavour|\bcentre|\bgrey|catalogue|labelled|\blearnt\b|favour\b"
    r"|(normal|recogn|initial|summar|general|memor|optim)is(e|ed|es|ing|ation)\b|\banalys(e|ed|ing)\b",
    re.IGNORECASE,
)


def tracked() -> list[Path]:
    """Text files that people write: no results, no records of earlier versions, no license."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    files = [PROJECT / name for name in names.split("\0") if name]
    written = {".py", ".md", ".yaml", ".yml", ".toml", ".jinja", ".js", ".css", ".txt", ".cff", ".sh", ""}
    return [
        file
        for file in files
        if file.suffix in written and file.is_file() and file.name not in ("LICENSE", "constraints.txt")
        if file != Path(__file__) and not re.search(r"tests/fixtures/\w+/.*/|experiments/\w+/", file.as_posix())
    ]


def lines_with(pattern: re.Pattern) -> list[str]:
    found = []
    for file in tracked():
        text = file.read_text("utf-8")
        # Across the end of a line, too, where a comment or a docstring is wrapped.
        for match in pattern.finditer(re.sub(r"\n[ #]*", lambda space: "\n" + " " * (len(space[0]) - 1), text)):
            found.append(f"{file.relative_to(PROJECT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}")
    return found


@pytest.mark.slow
def test_house_words_are_gone():
    assert not lines_with(HOUSE_WORDS)


@pytest.mark.slow
def test_spelling_is_american():
    assert not lines_with(BRITISH)


def test_the_front_door_is_short():
    assert len((PROJECT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_the_configuration_page_is_made_from_the_schema():
    assert (PROJECT / "docs" / "config.md").read_text("utf-8") == reference(), "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    text = re.sub(r"^    .*$|```.*?```|`[^`]*`", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(<?([^)>\s]+)>?\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted((PROJECT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_pages_open_with_what_the_reader_can_do(page):
    opening = page.read_text("utf-8").split("\n\n")[1]
    assert opening.startswith(("After this page you can ", "After this page you know "))


def commands() -> list[str]:
    """Every run.py command line of README and docs, in blocks and in running text."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^(?:    | *)(?:\$ )?(python run\.py .*)$", text, re.MULTILINE)
        found += [*blocks, *re.findall(r"`(python run\.py [^`]+)`", text)]
    return list(dict.fromkeys(re.sub(r"\s+# .*$|\s+#$", "", command).strip() for command in found))


@pytest.mark.parametrize("command", commands())
def test_documented_commands_are_accepted(command, compose, tmp_path, monkeypatch):
    """Each is composed and checked as run.py does it; a path of the reader's is one of the test's."""
    if "…" in command:
        return  # a form, not a command
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("list.csv", "shop.parquet"):
        (tmp_path / name).touch()
    command = re.sub(r"<[^>]*>", "x", command)  # what the reader fills in
    arguments = [argument for argument in shlex.split(command)[1:] if argument not in ("run.py", "-m", "--help")]
    if help_of := [argument.removeprefix("help=") for argument in arguments if argument.startswith("help=")]:
        assert group_help(help_of[0])
        return
    if "--cfg" in arguments:
        del arguments[arguments.index("--cfg") :]
    parse(compose(*(one_value(argument, tmp_path) for argument in arguments if not argument.startswith("hydra"))))


def one_value(argument: str, folder: Path) -> str:
    """An override with its first value, where it has several, and with a path that exists."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    key, _, value = argument.partition("=")
    if key == "task.input" or re.fullmatch(r"dataset\.(relabel|table|(val_)?(root|annotations))", key):
        is_list = value.endswith((".csv", ".json", ".pth", ".safetensors"))
        return f"{key}={folder / ('list.csv' if is_list else 'photos')}"
    override = OverridesParser.create().parse_override(argument)
    if not override.is_sweep_override():
        return argument
    if override.is_choice_sweep():
        return f"{key}={next(override.sweep_string_iterator())}"
    return f"{key}=0.1" if key == "optimizer.lr" else f"{key}=1"


def test_the_code_of_the_extension_page_is_the_example():
    text = (PROJECT / "docs" / "extending.md").read_text("utf-8")
    blocks = re.findall(r"`(shelf_parts/[\w/.]+)`:\n\n```\w+\n(.*?)\n```", text, re.DOTALL)
    files = {name: (PROJECT / "tests" / "plugin_example" / name).read_text("utf-8").strip() for name, _ in blocks}
    assert dict(blocks) == files
    assert len(files) >= 18
