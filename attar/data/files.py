"""Documents from the user's own files: .txt, .jsonl, .parquet, or a folder of them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attar.data.documents import Document, digest, sections
from attar.errors import BadInput

SETTING = "data.column"
SUFFIXES = (".txt", ".jsonl", ".parquet")


def read(path: Path, column: str) -> list[Document]:
    """The texts of a file or folder, in the order of files and rows.

    A row of .jsonl or .parquet is a document, and so is a stretch of paragraphs of a .txt (some 8,000 characters). The
    split goes by content: ``module`` is the digest of the row, of the stretch for a .txt. Raises :class:`BadInput` for
    what is missing, empty, not UTF-8, without the column, or of another kind.
    """
    try:
        if not path.exists():
            raise BadInput(f"the data file {path} does not exist")
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not files:
                raise BadInput(f"the data folder {path} holds no usable file; possible: {', '.join(SUFFIXES)}")
            return [document for file in files for document in _read_file(file, str(file.relative_to(path)), column)]
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise BadInput(f"the data file {path} is of a kind that is not read; possible: {', '.join(SUFFIXES)}")
        return list(_read_file(path, path.name, column))
    except OSError as error:
        raise BadInput(f"the data file {path} cannot be read ({error.strerror or error})") from None


def records(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), setting: str | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of a .jsonl or .parquet file with their ``required`` columns, and the ``optional`` ones where they are.

    ``setting`` is the one that names the required column, if one does. Raises :class:`BadInput` as :func:`read` does.
    """
    try:
        if not path.is_file():
            raise BadInput(f"the data file {path} {'is a folder; name a file' if path.is_dir() else 'does not exist'}")
        match path.suffix.lower():
            case ".jsonl":
                for number, value in _objects(path):
                    for column in required:
                        if column not in value:
                            raise BadInput(f"line {number} of the data file {path} {without(column, value, setting)}")
                    yield {key: value[key] for key in (*required, *optional) if key in value}
            case ".parquet":
                yield from _parquet_rows(path, required, optional, setting)
            case _:
                raise BadInput(f"the data file {path} is of a kind that is not read here; possible: .jsonl, .parquet")
    except UnicodeDecodeError as error:
        raise BadInput(f"the data file {path} is not UTF-8 (byte {error.start}); convert it") from None
    except OSError as error:
        raise BadInput(f"the data file {path} cannot be read ({error.strerror or error})") from None


def row(name: str, text: str) -> Document:
    """A document whose split goes by what it says, wherever it stands."""
    return Document(name, digest(text), text)


def _read_file(path: Path, name: str, column: str) -> Iterator[Document]:
    try:
        if path.stat().st_size == 0:
            raise BadInput(f"the data file {path} is empty")
        match path.suffix.lower():
            case ".txt":
                for number, text in enumerate(sections(path.read_text(encoding="utf-8-sig")), start=1):
                    yield row(f"{name}#{number}", text)
            case ".jsonl":
                yield from _read_lines(path, name, column)
            case _:
                yield from _read_parquet(path, name, column)
    except UnicodeDecodeError as error:
        raise BadInput(
            f"the data file {path} is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}); convert it"
        ) from None


def _read_lines(path: Path, name: str, column: str) -> Iterator[Document]:
    for number, value in _objects(path):
        if column not in value:
            raise BadInput(f"line {number} of the data file {path} {without(column, value)}")
        yield from _texts(value[column], f"{name}:{number}", column, path)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, JSON object) of every line that is not blank."""
    # Split at newlines only: str.splitlines would also cut at U+2028 and the like, which JSON strings may hold.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value: Any = json.loads(line)
        except (ValueError, RecursionError):
            raise BadInput(f"line {number} of the data file {path} is not JSON; it must be one object a line") from None
        if not isinstance(value, dict):
            raise BadInput(f"line {number} of the data file {path} is not a JSON object such as {{'text': …}}")
        yield number, value


def _read_parquet(path: Path, name: str, column: str) -> Iterator[Document]:
    for number, value in enumerate(_parquet_rows(path, [column], [], SETTING), start=1):
        yield from _texts(value[column], f"{name}:{number}", column, path)


def _parquet_rows(
    path: Path, required: Sequence[str], optional: Sequence[str], setting: str | None
) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        for column in required:
            if column not in names:
                raise BadInput(f"the data file {path} {without(column, names, setting)}")
        for batch in file.iter_batches(columns=[*required, *(name for name in optional if name in names)]):
            yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise BadInput(f"the data file {path} is not readable Parquet ({str(error).splitlines()[0]})") from None


def without(column: str, names: Any, setting: str | None = SETTING) -> str:
    """Half a sentence for a column that is not there, and the setting that names it."""
    shown = [str(name) for name in names]
    listed = ", ".join(shown[:12]) + (", …" if len(shown) > 12 else "")
    return f"has no column {column!r}; it has {listed or 'none'}" + (f"; name one in {setting}" if setting else "")


def _texts(value: Any, name: str, column: str, path: Path) -> Iterator[Document]:
    """The document of one row; a row with null or white space has none."""
    if value is None:
        return
    if not isinstance(value, str):
        raise BadInput(f"{name} of the data file {path} holds {type(value).__name__}, not text, in column {column!r}")
    if value.strip():
        yield row(name, value.encode("utf-8", "replace").decode())  # JSON can spell half a surrogate pair
