"""The process: loads the model, then listens on a Unix domain socket. Until it listens, /ping cannot succeed."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from .application import Application
from .handlers import HandlerService

logger = logging.getLogger("sagemaker-local")

KEEP_ALIVE_SECONDS = 3600  # The client closes idle connections, so that it never meets one that is just closing.
SHUTDOWN_SECONDS = 1
CHATTY_LOGGERS = ("asyncio", "boto3", "botocore", "filelock", "httpcore", "httpx", "urllib3", "uvicorn")


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM. Returns 1 when the model cannot be loaded; the traceback is on stderr."""
    if len(arguments) != 1:
        print("usage: inference_server SOCKET", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=_log_level(os.environ.get("SAGEMAKER_CONTAINER_LOG_LEVEL", "20")),
        format="%(asctime)s [%(levelname)s] %(name)s - %(message)s",
        stream=sys.stderr,
    )
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    base = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    try:
        service = HandlerService.load(base / "model")
    except Exception:
        logger.exception("The model could not be loaded.")
        return 1

    import uvicorn

    uvicorn.run(
        Application(service),
        uds=arguments[0],
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return 0


def _log_level(text: str) -> int:
    """SAGEMAKER_CONTAINER_LOG_LEVEL is a number of the logging module; names are accepted too."""
    level = int(text) if text.isdigit() else logging.getLevelName(text.upper())
    return level if isinstance(level, int) else logging.INFO
