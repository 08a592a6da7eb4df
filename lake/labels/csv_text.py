"""CSVs as spreadsheets, pandas and challenges save them -> rows of texts.

In: an open file. Out: its Form (encoding, delimiter), then (line, fields) of each row. A byte order
mark names UTF-8 or UTF-16, and every second byte being 0 UTF-16 without a mark; anything else is
UTF-8, whose other bytes are taken for Windows-1252, as spreadsheets write them in western Europe.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

# Characters. A run-length text can be longer than the csv module's 128 KiB, but an open quotation
# or a file without line ends must not fill the memory.
FIELD_LIMIT = LINE_LIMIT = 2**24
# In this order: a decimal comma or a comma in a name does not hide the delimiter around it.
DELIMITERS = {"\t": "tab", ";": "semicolon", "|": "pipe", ",": "comma"}
HEAD_LINES, HEAD_CHARACTERS = 100, 2**20  # from which the delimiter and the columns are told
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
ENCODING_NAMES = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "utf-16": "UTF-16"}
SEPARATOR_LINE = re.compile(r"\"?sep=(.)\"?\s*", re.IGNORECASE)  # Excel's own first line


class Form(NamedTuple):
    """Says how the text of a CSV is written."""

    encoding: str = "utf-8-sig"
    delimiter: str = ","
    skipped_lines: int = 0  # before the first row

    def __str__(self) -> str:
        encoding = ENCODING_NAMES.get(self.encoding, "UTF-16")
        return f"{encoding} text with a {DELIMITERS.get(self.delimiter, 'sign')} between columns"


def _windows_1252(error: UnicodeError) -> tuple[str, int]:
    """Return (text, end) of bytes that are not in the file's encoding: each is read as
    Windows-1252, or escaped where that lacks it, so that they spoil only their own row."""
    damage = error.object[error.start : error.end]
    is_bytes = error.encoding == "utf-8"
    return damage.decode("cp1252" if is_bytes else "ascii", "backslashreplace"), error.end


codecs.register_error("radlake-windows-1252", _windows_1252)


def encoding_of(file: BinaryIO) -> str:
    """Return the encoding of an open file by its first bytes; leave it at its start."""
    start = file.read(4)
    file.seek(0)
    for mark, encoding in MARKS.items():
        if start.startswith(mark):
            return encoding
    zeros = [byte == 0 for byte in start]
    if zeros == [False, True, False, True]:
        return "utf-16-le"
    return "utf-16-be" if zeros == [True, False, True, False] else "utf-8"


def heads(file: BinaryIO) -> Iterator[tuple[Form, list[list[str]]]]:
    """Yield (Form, the first rows that it gives) for every delimiter; raise csv.Error for a file
    that has no lines of text."""
    encoding, lines = encoding_of(file), []
    text = _text(file, encoding)
    try:
        for line in _lines(text):
            lines.append(line)
            if len(lines) >= HEAD_LINES or sum(map(len, lines)) >= HEAD_CHARACTERS:
                break
    finally:
        _release(text, file)
    separator = SEPARATOR_LINE.fullmatch(lines[0]) if lines else None
    for delimiter in [separator[1]] if separator else DELIMITERS:
        form = Form(encoding, delimiter, 1 if separator else 0)
        yield form, [fields for _, fields in _parse(iter(lines), form, is_whole=False)]


def rows(file: BinaryIO, form: Form) -> Iterator[tuple[int, list[str]]]:
    """Yield (line in which it begins, fields) of each row with a text in it, without the spaces
    around the fields; raise csv.Error, with the row, where the text stops being a CSV."""
    text = _text(file, form.encoding)
    try:
        yield from _parse(_lines(text), form, is_whole=True)
    finally:
        _release(text, file)


def _text(file: BinaryIO, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding, errors="radlake-windows-1252", newline="")


def _release(text: io.TextIOWrapper, file: BinaryIO) -> None:
    """Leave the file open, at its start, when its text is no longer needed."""
    if not file.closed:
        text.detach()
        file.seek(0)


def _lines(text: io.TextIOBase) -> Iterator[str]:
    """Yield the lines of a text; raise csv.Error for one that is too long."""
    while line := text.readline(LINE_LIMIT):
        if len(line) == LINE_LIMIT:
            raise csv.Error(f"a line of {LINE_LIMIT:,} characters or more")
        yield line


def _parse(lines: Iterator[str], form: Form, is_whole: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of the rows of some lines; where they are the whole file, raise
    csv.Error for a quotation without an end."""
    csv.field_size_limit(FIELD_LIMIT)
    num_lines = 0

    def counted_lines() -> Iterator[str]:
        nonlocal num_lines
        for line in lines:
            num_lines += 1
            if num_lines > form.skipped_lines:
                yield line
        num_lines = -1  # the reader wants more than there is

    # Spaces before a quotation mark would make it a part of the text.
    reader = csv.reader(counted_lines(), delimiter=form.delimiter, skipinitialspace=True)
    start = form.skipped_lines + 1
    try:
        for fields in reader:
            if num_lines < 0 and is_whole:
                raise csv.Error("a quotation begins in it that never ends")
            fields = list(map(str.strip, fields))
            if any(fields):
                yield start, fields
            start = num_lines + 1
    except csv.Error as error:
        raise csv.Error(f"row {start}: {error}") from None
