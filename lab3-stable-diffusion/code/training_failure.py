"""How a training job says why it failed: /opt/ml/output/failure becomes the job's FailureReason."""

import os
import sys
import traceback
from pathlib import Path

LONGEST_REASON = 1024  # characters; SageMaker cuts what is longer


class InputError(ValueError):
    """What was given cannot be trained on or with; the message names the cause and the next step."""


def failure_file() -> Path | None:
    """Where SageMaker looks for the reason; None outside of a training job."""
    if named := os.environ.get("SM_OUTPUT_FAILURE"):
        return Path(named)
    folder = Path(os.environ.get("SM_OUTPUT_DIR", "/opt/ml/output"))
    return folder / "failure" if folder.is_dir() else None


def report_failure(error: BaseException) -> None:
    """Print the reason as stderr's last line (after a traceback if it is no InputError); write the failure file."""
    expected = isinstance(error, InputError)
    if not expected:
        traceback.print_exception(error)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    print(f"ERROR: {reason}", file=sys.stderr, flush=True)
    # One process of each host writes: its reason is that of the others.
    if (path := failure_file()) and os.environ.get("LOCAL_RANK", "0") == "0":
        try:
            path.write_text(reason[:LONGEST_REASON], encoding="utf-8")
        except OSError as problem:
            print(f"The reason could not be written to {path}: {problem}", file=sys.stderr, flush=True)
