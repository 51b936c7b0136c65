"""CSV files of people: read as spreadsheets save them, written as spreadsheets open them.

Spreadsheets guess encodings and separators, evaluate cells that begin like a formula, and rewrite what looks like a
number.  Reading accepts what they save and refuses what they damaged; writing gives them nothing to guess.
"""

import csv
import io
import logging
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from pathlib import Path
from typing import TYPE_CHECKING

from rp2k_lab.core.files import write_atomically, write_text
from rp2k_lab.core.text import escape_controls, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

log = logging.getLogger(__name__)

_BYTE_ORDER_MARK = "\ufeff"
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (BOM_UTF8, "utf-8-sig"),
    (BOM_UTF32_LE, "utf-32"),
    (BOM_UTF32_BE, "utf-32"),
    (BOM_UTF16_LE, "utf-16"),
    (BOM_UTF16_BE, "utf-16"),
)
_OTHER_KINDS = {
    b"PK\x03\x04": "a workbook, no CSV",
    b"\xd0\xcf\x11\xe0": "a workbook, no CSV",
    b"PAR1": "a parquet file, no CSV",
}
_SEPARATORS = ",;\t"
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)  # Excel's own first line
_INVISIBLE = " \t\r\n\xa0\u3000\u200b\ufeff"  # around names of columns
# A cell that a spreadsheet would evaluate; `write_csv` puts an apostrophe before it, `read_csv` removes that.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_ESCAPED_FORMULA = re.compile(r"'+[=+\-@\t\r]")
# 6.90123E+12 for a bar code, and the results of formulas.
_DAMAGED = re.compile(r"[+-]?\d(?:[.,]\d+)?E\+\d{2,3}|#(?:NAME\?|N/A|REF!|VALUE!|DIV/0!|NUM!|NULL!)")
_UNKNOWN_TEXT = ": neither UTF-8 nor UTF-16 nor GB18030\nsave it as UTF-8"
DAMAGED = "is not what was typed: a spreadsheet changed it"
TYPED_AGAIN = "format the column as text in the spreadsheet, fill in the value again, and save"
_SAVE_AS_CSV = 'save it as "CSV UTF-8" with a header line'


class UnreadableText(ValueError):
    """A file that cannot be read.  The message is `: reason` or `, line 7: reason`, then the way out."""


def column_key(name: str) -> str:
    """Return a column's name as tables are searched for it: spaces around it and its case do not count."""
    return name.strip(_INVISIBLE).casefold()


def decode(content: bytes, file: Path) -> str:
    """Return the text of a file that a person wrote: UTF-8, UTF-16 or UTF-32 with a mark, or GB18030 (includes GBK).

    A guess is logged with an example.

    Raises:
        UnreadableText: none of them.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    start, guess = content[:20], None
    if encoding == "utf-8" and 4 * start.count(0) > len(start):  # of UTF-16: a zero in each ASCII character
        guess = encoding = "utf-16-le" if start[1] == 0 else "utf-16-be"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise UnreadableText(_UNKNOWN_TEXT) from None
        text, guess = _chinese(content), "gb18030"
    if guess:
        found = re.search(r"[^\x00-\x7f]+", text)
        example = f", for example {escape_controls(shorten(found[0], 20))}" if found else ""
        log.warning("%s: no UTF-8; read as %s%s", escape_controls(file), guess.upper(), example)
    return text


def _chinese(content: bytes) -> str:
    """Return the text of GB18030.

    Bytes of Latin-1, Big5 and Shift-JIS are often valid GB18030, too, but not in the rows of common characters.

    Raises:
        UnreadableText: it is another encoding.
    """
    try:
        text = content.decode("gb18030")
    except UnicodeDecodeError:
        text = ""
    others = [character.encode("gb18030") for character in text if not character.isascii()]
    common = sum(len(code) == 2 and code[0] >= 0xA1 and code[1] >= 0xA1 for code in others)
    if not others or common < 0.9 * len(others):
        raise UnreadableText(_UNKNOWN_TEXT)
    return text


def read_csv(file: Path, fold: bool = True) -> "pd.DataFrame":
    """Return the cells of a CSV as text, without empty lines.

    Separators are commas, semicolons or tabs.  Blanks before a cell are dropped; everything else stays as written, so
    that a class may be called NA or 007.

    Args:
        fold: name the columns by `column_key`; otherwise as written.

    Returns:
        Columns of str; a column without a name is `column <number>`.  The index is the line of the file.

    Raises:
        UnreadableText: no such text, no header, two columns of one name, a line with more cells than the header, or
            an open quote.
    """
    import pandas as pd

    try:
        content = file.read_bytes()
    except OSError as error:
        raise UnreadableText(f": cannot be read ({error.strerror})\n{_SAVE_AS_CSV}") from None
    for mark, kind in _OTHER_KINDS.items():
        if content.startswith(mark):
            raise UnreadableText(f": {kind}\n{_SAVE_AS_CSV}")
    (_, header), *rows = _rows(decode(content, file))
    keys = [column_key(name) for name in header]
    names = [key or f"column {i}" for i, key in enumerate(keys if fold else header, start=1)]
    for name in names:
        if names.count(name) > 1:
            raise UnreadableText(
                f": has two columns {escape_controls(name)}\nrename one; upper and lower case are the same"
            )
    cells = [_cells(row, line, len(names)) for line, row in rows]
    table = pd.DataFrame(cells, [line for line, _ in rows], names, dtype=object)
    unnamed = [name for name, key in zip(names, keys, strict=True) if not key]
    return table.drop(columns=[name for name in unnamed if (table[name] == "").all()])


def _rows(text: str) -> list[tuple[int, list[str]]]:
    """Return (first line in the file, cells) of the header and of each row that is not empty."""
    lines = io.StringIO(text, newline="")
    first, skipped = lines.readline(), 0
    if match := _SEPARATOR_LINE.fullmatch(first):
        separator, skipped = match[1], 1
    else:
        while first and not first.strip():
            first, skipped = lines.readline(), skipped + 1
        unquoted = re.sub(r'"[^"]*"', "", first)
        separator = max(_SEPARATORS, key=unquoted.count)
        lines.seek(0)
        skipped = 0
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a list of all test photos is one cell
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    rows, line = [], skipped + 1
    try:
        for row in reader:
            if "".join(row).strip():
                rows.append((line, row))
            line = skipped + reader.line_num + 1
    except csv.Error as error:
        raise UnreadableText(f", line {line}: {error}\nput quotes around cells with commas or quotes") from None
    if not rows:
        raise UnreadableText(f": is empty\n{_SAVE_AS_CSV}")
    return rows


def _cells(row: list[str], line: int, columns: int) -> list[str]:
    """Return exactly `columns` cells; Excel leaves out empty ones at the end of a line."""
    if len(row) > columns and "".join(row[columns:]).strip():
        raise UnreadableText(
            f", line {line}: has {len(row)} cells, more than the header's {columns}\n"
            "put quotes around cells with commas, or give each column a name"
        )
    cells = [_without_apostrophe(cell) if cell[:1] == "'" else cell for cell in row[:columns]]
    return cells + [""] * (columns - len(cells))


def _without_apostrophe(cell: str) -> str:
    return cell[1:] if _ESCAPED_FORMULA.match(cell) else cell


def is_damaged(value: str) -> bool:
    """Return whether a name or path is what a spreadsheet makes of another: 6.90123E+12 of a bar code, or #NAME?."""
    return _DAMAGED.fullmatch(value.strip()) is not None


def is_changed_number(value: str, original: str) -> bool:
    """Return whether a spreadsheet could have made `value` of `original`: 7 of 007, 1.0 of 1."""
    try:
        return value != original and float(value.replace(",", ".")) == float(original)
    except ValueError:
        return False


def csv_text(table: "pd.DataFrame", **options) -> str:
    """Return a table as CSV for people, to be encoded as UTF-8; options as in `DataFrame.to_csv`.

    A byte order mark comes before text beyond ASCII: without one, Excel shows Chinese as garbled characters.  Text that
    begins like a formula gets an apostrophe.
    """
    import pandas as pd

    table = table.copy()
    for name in table.columns[~table.dtypes.map(pd.api.types.is_numeric_dtype)]:
        table[name] = [f"'{v}" if isinstance(v, str) and _FORMULA.match(v) else v for v in table[name]]
    text = table.to_csv(index=False, lineterminator="\n", **options)
    return text if text.isascii() else _BYTE_ORDER_MARK + text


def write_csv(table: "pd.DataFrame", file: Path, **options) -> None:
    """Write a table atomically; see `csv_text`."""
    write_text(file, csv_text(table, **options))


def write_csv_parts(parts: "Iterable[pd.DataFrame]", file: Path, is_ascii: bool, **options) -> None:
    """Write tables of the same columns as one CSV, atomically and one at a time; see `csv_text`.

    Args:
        is_ascii: whether no table has text beyond ASCII, so that the file needs no byte order mark.
    """
    with write_atomically(file) as part, part.open("w", encoding="utf-8", newline="") as opened:
        opened.write("" if is_ascii else _BYTE_ORDER_MARK)
        for i, table in enumerate(parts):
            opened.write(csv_text(table, header=i == 0, **options).removeprefix(_BYTE_ORDER_MARK))


def read_written(file: Path, text_columns: tuple[str, ...] = ()) -> "pd.DataFrame":
    """Return a table of `write_csv` with its types; `text_columns` stay text, so that 007 does not become 7.

    An empty cell is NaN, or "" in a text column.
    """
    import pandas as pd

    table = pd.read_csv(file, encoding="utf-8-sig", keep_default_na=False, na_values=[""],
                        dtype=dict.fromkeys(text_columns, str))  # fmt: skip
    for name in table.columns[~table.dtypes.map(pd.api.types.is_numeric_dtype)]:
        values = [_without_apostrophe(value) if isinstance(value, str) else value for value in table[name]]
        table[name] = pd.Series(values, table.index, dtype=object)
        if name in text_columns:
            table[name] = table[name].fillna("")
    return table
