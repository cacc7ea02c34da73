"""The `context` that a handler may take: the parts of the model server's that handlers use."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger("sagemaker-local.metrics")


class Metrics:
    """`context.metrics`: writes each metric to the log."""

    def add_metric(self, name: str, value: float, unit: str = "Count", **dimensions: Any) -> None:
        logger.info("%s.%s:%s%s", name, unit, value, f"|{dimensions}" if dimensions else "")

    def add_counter(self, name: str, value: int, **dimensions: Any) -> None:
        self.add_metric(name, value, "Count", **dimensions)

    def add_time(self, name: str, value: float, idx: int | None = None, unit: str = "ms") -> None:
        self.add_metric(name, value, unit)

    def add_size(self, name: str, value: float, idx: int | None = None, unit: str = "MB") -> None:
        self.add_metric(name, value, unit)

    def add_percent(self, name: str, value: float, idx: int | None = None) -> None:
        self.add_metric(name, value, "Percent")


class RequestProcessor:
    """One request's headers, and the status and headers of its response."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)
        self._by_lower_name = {name.lower(): value for name, value in headers.items()}
        self.status: int | None = None
        self.response_headers: dict[str, str] = {}

    def get_request_properties(self) -> dict[str, str]:
        return self._headers

    def get_request_property(self, key: str) -> str | None:
        return self._by_lower_name.get(key.lower())

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self.status = code

    def add_response_property(self, key: str, value: str) -> None:
        self.response_headers[key] = value


class Context:
    """One per request; for `model_fn` and functions called while loading there is one without headers."""

    def __init__(
        self, system_properties: Mapping[str, Any], headers: Mapping[str, str] | None = None, request_id: str = ""
    ) -> None:
        self.model_name = "model"
        self.manifest: dict[str, Any] = {}
        self.system_properties = dict(system_properties)
        self.request_processor = [RequestProcessor(headers or {})]
        self.request_ids = {0: request_id}
        self.metrics = Metrics()

    def get_request_id(self, idx: int = 0) -> str:
        return self.request_ids[idx]

    def get_request_header(self, idx: int, key: str) -> str | None:
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int = 0) -> dict[str, str]:
        return self.request_processor[idx].get_request_properties()

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.request_processor[idx].add_response_property("Content-Type", value)

    def get_response_content_type(self, idx: int = 0) -> str | None:
        return self.request_processor[idx].response_headers.get("Content-Type")

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int = 0) -> dict[str, str]:
        return self.request_processor[idx].response_headers

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        self.set_response_status(code, phrase)

    def get_response_status(self, idx: int = 0) -> int | None:
        return self.request_processor[idx].status
