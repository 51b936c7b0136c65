"""dataset=table: photos and crops of photos listed in a CSV or parquet file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from rp2k_lab.core.csv_files import DAMAGED, TYPED_AGAIN, UnreadableText, column_key, is_damaged, read_csv
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.options import AbsolutePath
from rp2k_lab.core.text import escape_controls, shorten
from rp2k_lab.dataset.crops import file_of, split_crop
from rp2k_lab.dataset.options import SPLIT_NAMES, OwnPhotos, Places, Scan, relative_paths, title_of
from rp2k_lab.plugins import register

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_BOX = ("x", "y", "width", "height")
_SUFFIXES = (".csv", ".parquet")
_GROUP_SEPARATOR = " | "
# One column needs no brackets.
Columns = Annotated[
    tuple[str, ...], Field(strict=False), BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]


@register("dataset")
class Table(OwnPhotos):
    """A table with a row for each photo, or for each crop of a photo."""

    name: Literal["table"]
    table: AbsolutePath | None = Field(
        description="table of the photos, .csv or .parquet; with columns x, y, width and height [pixels], each "
        "row is a crop"
    )
    root: AbsolutePath | None = Field(description="folder that relative paths start at; null: the table's folder")
    path_column: str = Field(description="column of the photo's path; upper and lower case are the same")
    label_column: str = Field(description="column of the class, read as text")
    split_column: str | None = Field(
        description="column with train, val, test or nothing; the default `split` may be absent; null: do not read it"
    )
    group_columns: Columns | None = Field(
        description="columns whose values together name a track, a shop or a series, which no draw of val or test "
        "divides, for example [label,scene]; the default `group` may be absent; null: no groups"
    )
    needs_root = False
    file_keys = ("table", "root")
    fill_hint = "list photos of train in the table"

    @property
    def title(self) -> str:
        """The names of the photos' folder and of the table."""
        if self.table is None:
            return self.name
        return title_of(self.root or self.table.parent, self.table)

    def check_files(self) -> None:
        """Check that the table and the folders exist.

        Raises:
            RequestError: one is not given or does not exist, or the table is of another kind.
        """
        if self.table is None:
            raise RequestError("dataset.table: table needs its file\nadd dataset.table=<name>.csv or <name>.parquet")
        name = f"dataset.table={escape_controls(self.table)}"
        if not self.table.is_file():
            raise RequestError(f"{name}: there is no such file")
        if self.table.suffix.lower() not in _SUFFIXES:
            raise RequestError(f"{name}: neither .csv nor .parquet\nuse a table of one of the two kinds")
        super().check_files()

    def scan(self) -> Scan:
        """List the rows of the table.

        Raises:
            RequestError: a column is missing, or another one seems to be meant.
            DataError: the table cannot be read, or has a row without path or label, an unknown split, labels that
                differ in spaces alone, a value that a spreadsheet damaged, or a box that is no numbers.
        """
        self.check_files()
        assert self.table is not None
        rows = TableRows(self.table)
        root = self.root or self.table.parent
        paths = relative_paths(root, rows.text("path", self.path_column))
        labels = rows.text("label", self.label_column)
        splits = self._splits(rows)
        groups = self._groups(rows)
        paths, boxes, notes = _boxes(rows, root, paths)
        if boxes is not None and groups is None and None in splits:
            notes.append("crops of one photo may fall into train and val; dataset.group_columns=[path] prevents it")
        return Scan(
            root,
            list(zip(paths, labels, splits, strict=True)),
            [],
            groups=groups,
            boxes=boxes,
            places=rows.places,
            notes=[*notes, *_twins(rows, self.label_column), *rows.unused()],
        )

    def _splits(self, rows: "TableRows") -> list[str | None]:
        if self.split_column is None:
            return [None] * len(rows.table)
        if not rows.has(self.split_column, default="split", key="split_column"):
            rows.refuse_likely("split", _names_splits)
            return [None] * len(rows.table)
        given = rows.column(self.split_column).str.strip()
        lower = given.str.lower()
        wrong = (lower != "") & ~lower.isin(list(SPLIT_NAMES))
        rows.refuse(
            wrong, given, "is no split", f"use {', '.join(SPLIT_NAMES)} or nothing, or dataset.split_column=null"
        )
        return [SPLIT_NAMES.get(name) for name in lower]

    def _groups(self, rows: "TableRows") -> list[str] | None:
        columns = self.group_columns or ()
        default = "group" if len(columns) == 1 else None
        if not columns:
            return None
        if not all([rows.has(name, default, "group_columns") for name in columns]):
            rows.refuse_likely("group", lambda column: str(column.name).startswith("group"))
            return None
        values = [rows.column(name).tolist() for name in columns]
        return [_GROUP_SEPARATOR.join(row) if any(row) else "" for row in zip(*values, strict=True)]


def _names_splits(column: "pd.Series") -> bool:
    """Return whether a column has splits' names alone."""
    names = set(column.str.strip().str.lower()) - {""}
    return bool(names) and names <= SPLIT_NAMES.keys()


def _twins(rows: "TableRows", label_column: str) -> list[str]:
    """Return a note on labels that differ in case alone.

    Raises:
        DataError: labels differ in spaces alone.
    """
    labels, first = rows.column(label_column), {}
    plain = {name: " ".join(name.split()) for name in dict.fromkeys(labels)}
    wrong = {name: first[key] for name, key in plain.items() if first.setdefault(key, name) != name}
    if wrong:
        name, other = next(iter(wrong.items()))
        rows.refuse(labels == name, labels, f"and the label {other!r} differ in spaces alone", "write one of them")
    cases = {}
    for name in plain:
        cases.setdefault(name.casefold(), []).append(escape_controls(name))
    pairs = [" and ".join(names) for names in cases.values() if len(names) > 1]
    return [f"{len(pairs)} labels differ from others in case alone, the first {pairs[0]}"] if pairs else []


class TableRows:
    """The rows of a table as text, with their places in the file.

    Attributes:
        table: all columns, str; the names by `column_key`.
        places: of the rows: lines of a CSV, as in an editor; rows of a parquet file.

    Raises:
        DataError: the file cannot be read, has two columns of one name, or has no rows.
    """

    def __init__(self, file: Path):
        self._file = file
        self._used: set[str] = set()
        table = _read(file)
        table = table[~(table == "").all(axis=1)]
        if table.empty:
            raise DataError(f"{escape_controls(file)}: has no rows\nadd a row for each photo")
        unit = "line" if _is_csv(file) else "row"
        self.table, self.places = table.reset_index(drop=True), Places([(file, 0)], unit, table.index.tolist())

    def has(self, name: str, default: str | None, key: str) -> bool:
        """Return whether there is a column; only the default may be absent.

        Raises:
            RequestError: another column is absent.
        """
        if column_key(name) in self.table:
            return True
        if name == default:
            return False
        names = ", ".join(map(escape_controls, self.table))
        raise RequestError(
            f"dataset.table={escape_controls(self._file)}: has no column {escape_controls(name)}\n"
            f"set dataset.{key} to one of {names}"
        )

    def refuse_likely(self, default: str, is_likely: "Callable[[pd.Series], bool]") -> None:
        """Raise RequestError for a column that the absent column `default` is likely to be: it would be ignored."""
        for name in self.table.columns.difference(self._used, sort=False):
            if is_likely(self.table[name]):
                raise RequestError(
                    f"dataset.table={escape_controls(self._file)}: has no column {default}, but {escape_controls(name)}"
                    f"\nset dataset.{default}_column{'s' * (default == 'group')} to it, or to null to ignore it"
                )

    def unused(self) -> list[str]:
        """Return a note on the columns that nothing has read."""
        names = self.table.columns.difference(self._used, sort=False)
        return [shorten(f"columns not used: {', '.join(map(escape_controls, names))}", 200)] if len(names) else []

    def column(self, name: str) -> "pd.Series":
        """Return a column."""
        self._used.add(column_key(name))
        return self.table[column_key(name)]

    def text(self, key: str, name: str) -> list[str]:
        """Return the column that `dataset.<key>_column` names, whose cells must not be empty.

        Raises:
            RequestError: there is no such column.
            DataError: an empty cell, or one that a spreadsheet damaged.
        """
        self.has(name, None, f"{key}_column")
        values = self.column(name)
        if _is_csv(self._file):
            self.refuse(values.map(is_damaged).astype(bool), values, DAMAGED, TYPED_AGAIN)
        self.refuse(values.str.strip() == "", values, f"has an empty {key}", "fill the cell or remove the row")
        return values.tolist()

    def refuse(self, wrong: "pd.Series | np.ndarray", values: "pd.Series", reason: str, hint: str) -> None:
        """Raise DataError for the first wrong row, with its place and the number of others."""
        positions = [position for position, bad in enumerate(wrong) if bad]
        if positions:
            value = f"{escape_controls(values.iloc[positions[0]])} ".lstrip()
            more = f" (and {len(positions) - 1} more)" if len(positions) > 1 else ""
            raise DataError(f"{self.places.name(positions[0])}: {value}{reason}{more}\n{hint}")


def _is_csv(file: Path) -> bool:
    return file.suffix.lower() == ".csv"


def _read(file: Path) -> "pd.DataFrame":
    """Return a table of text as written; an empty cell is "".  The index is the line or row.

    Raises:
        DataError: the file cannot be read, or has two columns of one name.
    """
    import pandas as pd

    try:
        if _is_csv(file):
            return read_csv(file)
        # Nullable types, so that 7 beside an empty cell does not become 7.0.
        table = pd.read_parquet(file, dtype_backend="numpy_nullable").reset_index(drop=True)
        table = table.astype("string").astype(object).fillna("").astype(str)
    except UnreadableText as error:
        raise DataError(f"{escape_controls(file)}{error}") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{escape_controls(file)}: cannot be read as a table ({escape_controls(reason)})\n"
            "use a CSV or a parquet file"
        ) from None
    names = [column_key(str(name)) for name in table]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DataError(
            f"{escape_controls(file)}: has two columns {escape_controls(repeated[0])}\n"
            "rename one; upper and lower case are the same"
        )
    return table.set_axis(names, axis=1).set_axis(range(1, len(table) + 1))


def _boxes(rows: TableRows, root: Path, paths: Sequence[str]) -> tuple[list[str], "np.ndarray | None", list[str]]:
    """Return (paths, boxes as in `Scan`, notes); a path may itself name a crop (`rp2k_lab.dataset.crops`).

    Raises:
        DataError: a cell that is no finite number, or a row with some of the four.
    """
    import numpy as np

    present, notes = [name for name in _BOX if name in rows.table], []
    boxes = np.full((len(paths), 4), np.nan)
    if len(present) == 4:
        boxes = _numbers(rows)
    elif present[:2] == ["x", "y"]:
        notes.append("the table has columns x and y without width and height: whole photos are used")
    files = list(paths)
    for i, path in enumerate(paths):
        if "#" in path and np.isnan(boxes[i, 0]):
            box = file_of(root / path)[1]
            if box:
                files[i], boxes[i] = split_crop(path)[0], box
    return files, (None if np.isnan(boxes).all() else boxes), notes


def _numbers(rows: TableRows) -> "np.ndarray":
    """Return the columns of a box, float64 (rows, 4); NaN where all four cells are empty."""
    import numpy as np
    import pandas as pd

    text = pd.DataFrame({name: rows.column(name).str.strip() for name in _BOX})
    numbers = text.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    wrong = ~np.isfinite(numbers).all(axis=1) & (text != "").any(axis=1).to_numpy()
    cells = pd.Series([f"x,y,width,height={','.join(row)}:" for row in text.to_numpy().tolist()])
    rows.refuse(wrong, cells, "a box has four numbers", "correct or remove the row")
    return numbers
