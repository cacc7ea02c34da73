"""Tiny Shakespeare: 1.1 MB of Shakespeare's plays, for whoever is online or has the file.

    python tiny_shakespeare.py --out out/shakespeare                     # downloaded once, then from the cache
    python tiny_shakespeare.py --out out/shakespeare --file input.txt    # from a file

writes train/train.txt and validation/validation.txt, ready to be channels of a training job. The text is in the public
domain; Andrej Karpathy put it together for https://github.com/karpathy/char-rnn.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import urllib.request
from pathlib import Path

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_LARGEST = 10_000_000


class TextUnavailable(RuntimeError):
    """The text could not be had; the message says why and what to do."""


def fetch(
    file: str | Path | None = None,
    *,
    url: str = URL,
    sha256: str = SHA256,
    cache: str | Path | None = None,
    timeout: float = 30.0,
) -> Path:
    """The path of a file that holds the text, proved by its checksum.

    Args:
        file: take this one; nothing is downloaded.
        url, sha256: what to download otherwise, and the checksum that it must have.
        cache: folder that keeps it (default: genai-workshop in the user's cache folder).
        timeout: seconds without an answer after which the download is given up.

    Raises:
        TextUnavailable: no such file, no connection, or another checksum.
    """
    if file is not None:
        path = Path(file).expanduser()
        if not path.is_file():
            raise TextUnavailable(f"There is no file {path}.")
        _check(path.read_bytes(), sha256, str(path))
        return path
    path = (Path(cache) if cache else _user_cache()) / f"tinyshakespeare-{sha256[:12]}.txt"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
        return path
    content = _download(url, timeout)
    _check(content, sha256, url)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: what is killed half way leaves nothing that looks whole.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        partial.write(content)
    os.replace(partial.name, path)
    return path


def write_splits(source: str | Path, folder: str | Path, validation_share: float = 0.1) -> dict[str, Path]:
    """Cut a text at an empty line, the end for validation, and write it as two channels.

    Returns:
        {"train": folder/train/train.txt, "validation": folder/validation/validation.txt}

    Raises:
        ValueError: the share leaves one of the two without text.
    """
    # Bytes as they are: no line ending changes on the way.
    text = Path(source).read_bytes().decode("utf-8")
    near = round(len(text) * (1 - validation_share))
    cut = text.rfind("\n\n", 0, near) + 2 if 0 < validation_share < 1 else 0
    if not 2 <= cut < len(text):
        raise ValueError(f"A validation share of {validation_share} cuts {source} nowhere; choose one such as 0.1.")
    paths = {}
    for name, part in (("train", text[:cut]), ("validation", text[cut:])):
        paths[name] = Path(folder) / name / f"{name}.txt"
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_bytes(part.encode("utf-8"))
    return paths


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genai-workshop"


def _download(url: str, timeout: float) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            content = answer.read(_LARGEST + 1)
            expected = answer.headers.get("Content-Length")
    except OSError as error:
        raise TextUnavailable(
            f"Could not download {url}: {error}. Without internet, give the file if you have it (--file), or train on "
            "this lab's own data in data/products."
        ) from error
    if len(content) > _LARGEST or (expected and len(content) != int(expected)):
        raise TextUnavailable(f"The download of {url} broke off or was no text of this size; try again.")
    return content


def _check(content: bytes, sha256: str, origin: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise TextUnavailable(
            f"{origin} is not Tiny Shakespeare: its sha256 is {found}, expected {sha256}. A proxy's error page and "
            "changed line endings are the usual causes."
        )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the two channels to")
    parser.add_argument("--file", type=Path, help="take this file; download nothing")
    parser.add_argument("--url", default=URL, help="download from here (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="folder that keeps the download")
    parser.add_argument("--validation-share", type=float, default=0.1, help="default: %(default)s")
    given = parser.parse_args(arguments)
    try:
        paths = write_splits(fetch(given.file, url=given.url, cache=given.cache), given.out, given.validation_share)
    except (TextUnavailable, ValueError) as error:
        sys.exit(str(error))
    for name, path in paths.items():
        print(f"{name:<11} {path.stat().st_size:>9,} bytes  {path}")


if __name__ == "__main__":
    main()
