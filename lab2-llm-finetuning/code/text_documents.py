"""Documents out of txt, jsonl, csv, tsv and parquet files or a dataset of the Hub, and a held-out part of them."""

import csv
import io
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from training_failure import InputError

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
_USUAL_COLUMNS = ("text", "content", "document", "body")
FEWEST_TO_SPLIT = 10  # documents; of fewer, a stretch of each is held out


@dataclass(frozen=True)
class Document:
    """A text to learn; the first `prompt_length` characters are a prompt that the rest completes (None: no parts)."""

    text: str
    prompt_length: int | None = None
    ends: bool = True  # False: the text was cut out of a longer one and does not end here


@dataclass
class Documents:
    """What was read, and what was left out."""

    documents: list[Document] = field(default_factory=list)
    empty: int = 0
    ignored_files: list[str] = field(default_factory=list)


def read_documents(path: Path, text_column: str | None = None) -> Documents:
    """Read a file, or all files below a folder, in the order of their names.

    A txt file is one document; in the other formats each row is one. Raises InputError for what cannot be read: no
    files, a binary file, another encoding than UTF-8, no column of text, nothing but empty documents.
    """
    found = Documents()
    for file in _files(path, found):
        for document in _read_file(file, text_column):
            if document.text.strip():
                found.documents.append(document)
            else:
                found.empty += 1
    if not found.documents:
        raise InputError(f"{path} holds no text: all documents are empty")
    return found


def read_hub_dataset(name: str, text_column: str | None = None) -> tuple[Documents, Documents | None]:
    """The splits train and, if there is one, validation of a dataset of the Hub. Raises InputError without them."""
    import datasets

    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # the library raises a dozen kinds, from requests' to its own
        raise InputError(f"the dataset {name!r} cannot be loaded: {error}") from error
    if "train" not in splits:
        raise InputError(f"the dataset {name!r} has no split train, only {', '.join(splits)}")

    def read(split) -> Documents:
        found = Documents()
        for document in _from_rows(enumerate(split, 1), split.column_names, f"dataset {name}", text_column):
            if document.text.strip():
                found.documents.append(document)
            else:
                found.empty += 1
        if not found.documents:
            raise InputError(f"the dataset {name!r} holds no text: all documents are empty")
        return found

    return read(splits["train"]), read(splits["validation"]) if "validation" in splits else None


def split_documents(documents: list[Document], fraction: float, seed: int) -> tuple[list[Document], list[Document]]:
    """Divide into (train, held out). Equal texts stay on one side.

    Of fewer than ten documents a stretch of lines of each is held out. Raises InputError for too little text.
    """
    rng = random.Random(seed)
    texts = sorted({document.text for document in documents})
    if len(texts) >= FEWEST_TO_SPLIT:
        held_out = set(rng.sample(texts, max(1, round(len(texts) * fraction))))
        return (
            [document for document in documents if document.text not in held_out],
            [document for document in documents if document.text in held_out],
        )
    train: list[Document] = []
    validation: list[Document] = []
    # Equal documents once, or what is held out of one would be learned from the other.
    for document in dict.fromkeys(documents):
        before, stretch, after = _cut_stretch(document, fraction, rng)
        train += [part for part in (before, after) if part is not None]
        validation.append(stretch)
    return train, validation


def _cut_stretch(document: Document, fraction: float, rng: random.Random):
    pieces = document.text.splitlines(keepends=True)
    if len(pieces) < 20:  # hardly any lines: cut between words
        pieces = [word + " " for word in document.text.split(" ")]
        pieces[-1] = pieces[-1][:-1]
    count = round(len(pieces) * fraction)
    if count < 1:
        raise InputError(
            f"there is no validation data, and with {len(pieces)} words or lines too little text to hold some out: "
            "give more training data, or a validation channel"
        )
    start = rng.randrange(len(pieces) - count + 1)
    texts = ("".join(pieces[:start]), "".join(pieces[start : start + count]), "".join(pieces[start + count :]))
    last = max(index for index, text in enumerate(texts) if text)
    return [Document(text, ends=document.ends and index == last) if text else None for index, text in enumerate(texts)]


def _files(path: Path, found: Documents) -> list[Path]:
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path.name} has no format that this script reads: {', '.join(SUFFIXES)}")
        return [path]
    files = []
    for file in sorted(path.rglob("*")):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts):
            if file.suffix.lower() in SUFFIXES:
                files.append(file)
            else:
                found.ignored_files.append(str(file.relative_to(path)))
    if not files:
        others = f"; it holds {', '.join(found.ignored_files[:5])}" if found.ignored_files else ", it is empty"
        raise InputError(f"{path} holds no file to train on ({', '.join(SUFFIXES)}){others}")
    return files


def _read_file(file: Path, text_column: str | None) -> Iterator[Document]:
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        yield from _from_parquet(file, text_column)
        return
    text = _decode(file)
    if suffix == ".txt":
        yield Document(text)
    elif suffix == ".jsonl":
        yield from _from_jsonl(file, text, text_column)
    else:
        csv.field_size_limit(1 << 30)
        delimiter = "\t" if suffix == ".tsv" else ","
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise InputError(f"{file.name}, line {reader.line_num} is not csv: {error}") from error
        yield from _from_rows(rows, list(reader.fieldnames or ()), file.name, text_column)


def _decode(file: Path) -> str:
    data = file.read_bytes()
    if not data.strip():
        raise InputError(f"{file.name} is empty")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise InputError(f"{file.name} is a binary file or UTF-16 text (a zero byte in line {line}): give UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{file.name} is not UTF-8 (byte 0x{data[error.start]:02x} in line {line}): "
            f"convert it, for example by `iconv -f latin1 -t utf-8 {file.name}`"
        ) from error


def _from_jsonl(file: Path, text: str, text_column: str | None) -> Iterator[Document]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{file.name}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{file.name}, line {number} is no JSON object with a column of text: {line[:40]!r}")
        rows.append((number, row))
    columns = dict.fromkeys(name for _, row in rows[:100] for name in row)
    yield from _from_rows(rows, list(columns), file.name, text_column)


def _from_parquet(file: Path, text_column: str | None) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file.name} is not a parquet file: {error}") from error
    yield from _from_rows(enumerate(table.to_pylist(), 1), table.column_names, file.name, text_column)


def _from_rows(
    rows: Iterable[tuple[int, dict]], columns: list[str], source: str, text_column: str | None
) -> Iterator[Document]:
    rows = list(rows)
    if not rows:
        raise InputError(f"{source} has no rows")
    paired = text_column is None and {"prompt", "completion"} <= set(columns)
    column = None if paired else _text_column(rows, columns, source, text_column)
    for number, row in rows:
        if paired:
            prompt, completion = (_string(row, name, source, number) for name in ("prompt", "completion"))
            yield Document(prompt + completion if completion.strip() else "", len(prompt))
        else:
            yield Document(_string(row, column, source, number))


def _text_column(rows: list[tuple[int, dict]], columns: list[str], source: str, named: str | None) -> str:
    if named is not None:
        if named not in columns:
            raise InputError(f"{source} has no column {named!r}; it has {', '.join(map(str, columns)) or 'none'}")
        return named
    for name in _USUAL_COLUMNS:
        if name in columns:
            return name
    texts = [name for name in columns if any(isinstance(row.get(name), str) for _, row in rows[:100])]
    if len(texts) == 1:
        return texts[0]
    raise InputError(
        f"{source} has no column named text, and {'several columns' if texts else 'no column'} of text among "
        f"{', '.join(map(str, columns)) or 'none'}: name the right one by --text_column"
    )


def _string(row: dict, column: str, source: str, number: int) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{source}, row {number}: column {column!r} holds {type(value).__name__}, not text")
    return value
