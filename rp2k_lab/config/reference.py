"""The reference of all keys, from the schema and the files of `conf/`: docs/config.md (`make docs`), and `--help`."""

import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rp2k_lab.config.choices import choices, defaults_of, flatten, inner_groups, root_defaults
from rp2k_lab.config.schema import Config

Row = tuple[str, str, str, str]
"""A key with its default, its values and its meaning."""

_HEAD = """\
# Configuration

After this page you can look up any key: its meaning, unit, range and default.

`make docs` writes this page from the option classes, which [rp2k_lab/config/schema.py](../rp2k_lab/config/schema.py)
puts together, and the files of [conf/](../conf). Set a key with `group.key=value`, choose a file with `group=choice`.
"""


def reference() -> str:
    """Return the page as Markdown."""
    root = {name: field for name, field in Config.model_fields.items() if not _options(field.annotation)}
    parts = [_HEAD, "## Root keys", _table(_rows("", root, [root_defaults()]))]
    for group, field in Config.model_fields.items():
        if group == "callback":
            parts += [f"## {group}", *_callbacks(_options(field.annotation)[0])]
        elif group not in ("ablation", "scale") and (classes := _options(field.annotation)):
            parts += [f"## {group}", *_group(group, classes)]
            for inner in inner_groups(group):
                slot = _options(classes[0].model_fields[inner].annotation)
                parts += [f"## {group}/{inner}", *_group(f"{group}/{inner}", slot)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _callbacks(chosen: type[BaseModel]) -> Iterator[str]:
    """Yield the keys of each callback, of which a run chooses any number."""
    yield f"Choose with `callback=[a,b]`: {', '.join(f'`{name}`' for name in choices('callback'))}."
    for name, field in chosen.model_fields.items():
        options = next(cls for cls in _options(field.annotation))
        fields = {key: field for key, field in options.model_fields.items() if key != "name"}
        yield f"### callback: {name}"
        yield _table(_rows(f"callback.{name}.", fields, [defaults_of("callback", name)[name]]))


def _group(group: str, classes: list[type[BaseModel]]) -> Iterator[str]:
    """Yield the keys that all choices of a group have, and what each choice adds or sets otherwise."""
    inner = inner_groups(group)
    defaults = {choice: dict(flatten(defaults_of(group, choice))) for choice in choices(group)}
    yield f"Choices: {', '.join(f'`{choice}`' for choice in defaults)}."
    if inner:
        yield f"Each is a combination, of which `{group}/{inner[0]}=…` on the command line replaces a part:"
        head = [("choice", *(f"`{group}/{name}`" for name in inner)), ("---",) * (1 + len(inner))]
        yield _cells(head + [(f"`{c}`", *(f"`{keys[f'{n}.name']}`" for n in inner)) for c, keys in defaults.items()])
    for names, rows in _sections(group, classes, list(defaults)):
        if names is None:
            yield "Every choice has:"
        elif names:
            yield f"### {group}: {', '.join(names)}"
        yield _table(rows)


def _sections(
    group: str, classes: list[type[BaseModel]], chosen: Sequence[str]
) -> Iterator[tuple[list[str] | None, Iterator[Row]]]:
    """Yield (choices, rows of their keys) of a group; None: of all choices, an empty list: there is one class."""
    by_name = {name: cls for cls in classes for name in get_args(cls.model_fields["name"].annotation)}
    inner, prefix = inner_groups(group), f"{group.replace('/', '.')}."
    defaults = {choice: dict(flatten(defaults_of(group, choice))) for choice in chosen}
    of_class = {choice: by_name.get(keys["name"], classes[0]) for choice, keys in defaults.items()}
    common = {
        name: field
        for name, field in classes[0].model_fields.items()
        if name not in ("name", *inner) and all(name in cls.model_fields for cls in classes)
    }
    if common and len(classes) > 1:
        yield None, _rows(prefix, common, list(defaults.values()))
    for cls in classes:
        names = [choice for choice in defaults if of_class[choice] is cls]
        hidden = ("name", *inner, *(common if len(classes) > 1 else ()))
        own = {key: field for key, field in cls.model_fields.items() if key not in hidden}
        if own and names:
            yield names if len(classes) > 1 else [], _rows(prefix, own, [defaults[name] for name in names])


def root_rows() -> Iterator[Row]:
    """Yield the rows of the root keys."""
    root = {name: field for name, field in Config.model_fields.items() if not _options(field.annotation)}
    return _plain(_rows("", root, [root_defaults()]))


def group_sections(group: str, chosen: Sequence[str]) -> Iterator[tuple[str, Iterator[Row]]]:
    """Yield (title, rows) of a group, for a terminal; an empty title for a group whose choices have the same keys.

    Args:
        chosen: the choices to show; none: all.
    """
    outer, _, inner = group.partition("/")
    classes = _options(Config.model_fields[outer].annotation) if outer in Config.model_fields else []
    if inner:
        classes = _options(classes[0].model_fields[inner].annotation)
    if group == "callback":
        for name, field in classes[0].model_fields.items():
            options = _options(field.annotation)[0]
            fields = {key: each for key, each in options.model_fields.items() if key != "name"}
            yield f"callback={name}", _plain(_rows(f"callback.{name}.", fields, [defaults_of("callback", name)[name]]))
    elif classes:
        for names, rows in _sections(group, classes, chosen or choices(group)):
            yield "every choice" if names is None else ", ".join(f"{group}={name}" for name in names), _plain(rows)


def request_rows(settings: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of the keys of a composed request, with its values."""
    yield from _request_rows(Config, settings, "")


def _request_rows(options: type[BaseModel], settings: Mapping[str, Any], prefix: str) -> Iterator[Row]:
    for name, field in options.model_fields.items():
        classes, value = _options(field.annotation), settings.get(name)
        if not classes:
            if name in settings and name != "name":
                yield f"{prefix}{name}", _value(value), _values(field).replace("`", ""), field.description or ""
        elif isinstance(value, Mapping) and f"{prefix}{name}" not in ("ablation", "scale"):
            chosen = value.get("name")
            named = [cls for cls in classes if "name" in cls.model_fields]
            fitting = [cls for cls in named if chosen in get_args(cls.model_fields["name"].annotation)]
            yield from _request_rows((fitting or classes)[0], value, f"{prefix}{name}.")


def choices_of_key(key: str) -> list[str]:
    """Return the values that a key may have, if they can be listed; a union over the choices of its group."""
    models, path = [Config], key.split(".")
    for part in path[:-1]:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [cls for field in fields for cls in _options(field.annotation)]
    fields = [model.model_fields[path[-1]] for model in models if path[-1] in model.model_fields]
    return list(dict.fromkeys(value for field in fields for value in _listed(field.annotation)))


def _listed(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from map(_value, get_args(annotation))
    elif annotation is bool:
        yield from ("true", "false")
    elif annotation is type(None):
        yield "null"
    elif get_origin(annotation) in (Annotated, tuple):
        yield from _listed(get_args(annotation)[0])
    elif isinstance(annotation, types.UnionType) or get_origin(annotation) is Union:
        for part in get_args(annotation):
            yield from _listed(part)


def _plain(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows without Markdown's code marks."""
    for key, value, values, meaning in rows:
        yield key.replace("`", ""), value.replace("`", ""), values.replace("`", ""), meaning


def _rows(prefix: str, fields: dict[str, FieldInfo], defaults: list[dict[str, Any]]) -> Iterator[Row]:
    """Yield (key, default, values, meaning); of choices with different defaults each is given."""
    for name, field in fields.items():
        nested = _options(field.annotation)
        if nested and "name" not in nested[0].model_fields:  # a group within the group
            inner = [
                {k.removeprefix(f"{name}."): v for k, v in d.items() if k.startswith(f"{name}.")} for d in defaults
            ]
            yield from _rows(f"{prefix}{name}.", nested[0].model_fields, inner)
            continue
        texts = list(dict.fromkeys(_value(default[name]) for default in defaults if name in default))
        yield f"`{prefix}{name}`", " or ".join(f"`{text}`" for text in texts), _values(field), field.description or ""


def _table(rows: Iterator[Row]) -> str:
    return _cells([("key", "default", "values", "meaning"), ("---",) * 4, *rows])


def _cells(cells: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)


def _options(annotation: Any) -> list[type[BaseModel]]:
    """Return the option classes of a group's annotation; nothing for a plain key."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if isinstance(annotation, types.UnionType) or get_origin(annotation) is Union:
        return [cls for part in get_args(annotation) for cls in _options(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _values(field: FieldInfo) -> str:
    """Return the type and range of a key in a few words."""
    text = _type(field.annotation)
    limits = [limit for item in field.metadata for limit in _limits(item)]
    return ", ".join([text, *limits])


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        limits = [limit for item in metadata for limit in _limits(item)]
        return ", ".join([_type(inner), *limits])
    if isinstance(annotation, types.UnionType) or get_origin(annotation) is Union:
        return " or ".join(_type(part) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (tuple, list):
        parts = [part for part in get_args(annotation) if part is not Ellipsis]
        return f"list of {_type(parts[0])}" if Ellipsis in get_args(annotation) else f"[{', '.join(map(_type, parts))}]"
    names = {int: "integer", float: "number", bool: "`true` or `false`", str: "text", type(None): "`null`"}
    return names.get(annotation, "path")


def _limits(item: Any) -> Iterator[str]:
    """Yield the bounds that an annotation's metadata states."""
    if isinstance(item, FieldInfo):
        for inner in item.metadata:
            yield from _limits(inner)
    signs = {annotated_types.Ge: ("ge", "≥"), annotated_types.Gt: ("gt", ">"), annotated_types.Le: ("le", "≤")}
    signs[annotated_types.Lt] = ("lt", "<")
    if type(item) in signs:
        attribute, sign = signs[type(item)]
        yield f"{sign} {getattr(item, attribute):,}"


def _value(value: Any) -> str:
    """Return a default as a command line has it."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_value, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


if __name__ == "__main__":
    sys.stdout.write(reference())
