"""What a notebook must be before it is committed: its source's twin, run in order, and nobody's secrets in it."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from nbformat import NotebookNode

from .cells import tags

LARGEST = 3 * 2**20  # bytes of an .ipynb file
_BUILD = "run: make notebooks"
_SECRETS = {
    "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "an AWS secret key": r"(?i)aws_secret_access_key\W{1,4}[A-Za-z0-9/+]{30,}",
    "a signed URL": r"X-Amz-(?:Signature|Credential|Security-Token)=",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{50,})",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    # The local SageMaker's account is 123456789012; any other is somebody's.
    "an AWS account's ARN": r"arn:aws[\w-]*:[\w-]*:[\w-]*:(?!123456789012)\d{12}:",
}
# A path that only one machine has, whichever it was.
_FOREIGN_PATHS = r"/home/[\w.-]+|/Users/[\w.-]+|/root/|/tmp/|/var/folders/|/private/var/|[A-Z]:\\Users\\"


def differences(source: NotebookNode, saved: NotebookNode) -> list[str]:
    """Where the notebook `saved` is another one than `source`, the notebook its source makes."""
    for number, (wanted, found) in enumerate(zip_longest(source.cells, saved.cells), start=1):
        if wanted is None or found is None:
            return [f"source has {len(source.cells)} cells, notebook has {len(saved.cells)}; {_BUILD}"]
        pairs = {
            "type": (wanted.cell_type, found.cell_type),
            "text": (wanted.source, found.source),
            "tags": (tags(wanted), tags(found)),
            "id": (wanted.id, found.get("id")),
        }
        for what, (left, right) in pairs.items():
            if left != right:
                first = (wanted.source.strip().splitlines() or [""])[0][:60]
                return [f"cell {number} of all ({first!r}) has another {what} in source and notebook; {_BUILD}"]
    if source.metadata != saved.metadata:
        return [f"its metadata are not those of the source ({_keys(source, saved)}); {_BUILD}"]
    return []


def problems(notebook: NotebookNode, size: int, root: Path) -> list[str]:
    """What forbids to commit `notebook`, a file of `size` bytes in the checkout `root`, with the next step."""
    found = []
    if size > LARGEST:
        found.append(f"{size / 2**20:.1f} MiB, but at most {LARGEST / 2**20:.0f}: show fewer or smaller pictures")
    number = 0
    for cell in notebook.cells:
        if set(cell.metadata) - {"tags"}:
            found.append(f"a cell has metadata other than tags ({', '.join(sorted(cell.metadata))}); {_BUILD}")
        if cell.cell_type != "code":
            continue
        if not cell.source.strip():
            found.append("an empty code cell: remove it from the source")
            continue
        number += 1
        if cell.execution_count != number:
            found.append(f"code cell {number} has execution count {cell.execution_count}, not {number}; {_BUILD}")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"code cell {number} ended with {output.ename}: {output.evalue}; mend it and {_BUILD}")
        shown = "\n".join(_texts(cell.outputs))
        for path in machine_paths(shown, root):
            found.append(f"code cell {number} shows {path!r}, a path of the machine it ran on: print something else")
    everything = "\n".join([cell.source for cell in notebook.cells] + list(_texts(notebook.cells)))
    found += [f"it shows {what}: remove it, and revoke it" for what, p in _SECRETS.items() if re.search(p, everything)]
    repeated = [cell_id for cell_id, count in Counter(cell.get("id") for cell in notebook.cells).items() if count > 1]
    if repeated:
        found.append(f"cell ids that are not unique ({', '.join(map(str, repeated))}); {_BUILD}")
    return found


def machine_paths(text: str, root: Path) -> list[str]:
    """Paths in `text` that mean something on one machine only: of home, checkout and temporary folders."""
    temporary = Path(tempfile.gettempdir())
    own = {str(path) for path in (root, Path.home(), temporary, temporary.resolve())} - {"/"}
    pattern = "|".join([_FOREIGN_PATHS, *(rf"{re.escape(path)}(?![\w-])" for path in sorted(own))])
    matches = re.finditer(rf"(?<![\w/.~-])(?:{pattern})[\w./-]*", text)
    return list(dict.fromkeys(match[0] for match in matches))


def _texts(node) -> Iterator[str]:
    """All text in outputs or cells that a reader could see, without pictures, whose bytes mean nothing as text."""
    if isinstance(node, str):
        yield re.sub(r"(data:[\w/+.-]+;base64,)[A-Za-z0-9+/=\s]+", r"\1", node)
    elif isinstance(node, list):
        for item in node:
            yield from _texts(item)
    elif isinstance(node, dict):
        for key, item in node.items():
            if not key.startswith(("image/png", "image/jpeg", "image/gif")):
                yield from _texts(item)


def _keys(source: NotebookNode, saved: NotebookNode) -> str:
    names = sorted(set(source.metadata) | set(saved.metadata))
    return ", ".join(
        name for name in names if json.dumps(source.metadata.get(name)) != json.dumps(saved.metadata.get(name))
    )
