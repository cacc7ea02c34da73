"""Service Quotas of SageMaker, which moto lacks: how many instances of each type endpoints and jobs may have.

A quota's code is a hash of its name here. On AWS codes are arbitrary too: look a quota up by its name.
"""

from __future__ import annotations

import functools
import hashlib
import uuid
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import endpoints, training_jobs
from .faults import Fault
from .records import page
from .schema import parse_json, service_model, validate
from .state import ACCOUNT

SERVICE = "servicequotas"
"""The service's signing name."""

_PAGE = 100


def answer(region: str, request: Request, body: bytes) -> Response:
    """The answer to one request (awsJson1.1). Raises faults."""
    name = request.headers.get("x-amz-target", "").removeprefix("ServiceQuotasV20190624.")
    operation = _OPERATIONS.get(name)
    if operation is None:
        raise Fault(
            "UnknownOperationException",
            f"The local SageMaker does not implement Service Quotas' {name!r}. It implements: "
            f"{', '.join(sorted(_OPERATIONS))}.",
        )
    result = operation(region, validate("service-quotas", name, parse_json(body)))
    return JSONResponse(
        result, headers={"x-amzn-RequestId": str(uuid.uuid4())}, media_type="application/x-amz-json-1.1"
    )


def _list_services(region: str, request: dict[str, Any]) -> dict[str, Any]:
    services = [{"ServiceCode": "sagemaker", "ServiceName": "Amazon SageMaker"}]
    return page(services, request, "Services", key=lambda service: service["ServiceCode"], default_size=_PAGE)


def _list_quotas(region: str, request: dict[str, Any]) -> dict[str, Any]:
    quotas = [
        quota
        for quota in _quotas(region, request["ServiceCode"])
        if request.get("QuotaCode", quota["QuotaCode"]) == quota["QuotaCode"]
    ]
    return page(quotas, request, "Quotas", key=lambda quota: quota["QuotaCode"], default_size=_PAGE)


def _get_quota(region: str, request: dict[str, Any]) -> dict[str, Any]:
    for quota in _quotas(region, request["ServiceCode"]):
        if quota["QuotaCode"] == request["QuotaCode"]:
            return {"Quota": quota}
    raise Fault("NoSuchResourceException", f"There is no quota {request['QuotaCode']} of {request['ServiceCode']}.")


def _quotas(region: str, service_code: str) -> list[dict[str, Any]]:
    if service_code != "sagemaker":
        raise Fault("NoSuchResourceException", f"The local SageMaker has no quotas of the service {service_code}.")
    return _sagemaker_quotas(region)


@functools.cache
def _sagemaker_quotas(region: str) -> list[dict[str, Any]]:
    shapes = service_model("sagemaker")["shapes"]
    quotas = [
        _quota(region, f"{instance_type} for {usage}", limit)
        for shape, usage, limit in (
            ("ProductionVariantInstanceType", "endpoint usage", endpoints.MAX_INSTANCES),
            ("TrainingInstanceType", "training job usage", training_jobs.MAX_INSTANCES),
            ("TrainingInstanceType", "spot training job usage", training_jobs.MAX_INSTANCES),
            ("TrainingInstanceType", "training warm pool usage", training_jobs.MAX_INSTANCES),
        )
        for instance_type in shapes[shape]["enum"]
    ]
    return sorted(quotas, key=lambda quota: quota["QuotaName"])


def _quota(region: str, name: str, limit: int) -> dict[str, Any]:
    code = f"L-{hashlib.sha256(name.encode()).hexdigest()[:8].upper()}"
    return {
        "ServiceCode": "sagemaker",
        "ServiceName": "Amazon SageMaker",
        "QuotaArn": f"arn:aws:servicequotas:{region}:{ACCOUNT}:sagemaker/{code}",
        "QuotaCode": code,
        "QuotaName": name,
        "Value": float(limit),
        "Unit": "None",
        "Adjustable": False,
        "GlobalQuota": False,
        "QuotaAppliedAtLevel": "ACCOUNT",
    }


_OPERATIONS: dict[str, Callable[[str, dict[str, Any]], dict[str, Any]]] = {
    "GetAWSDefaultServiceQuota": _get_quota,
    "GetServiceQuota": _get_quota,
    "ListAWSDefaultServiceQuotas": _list_quotas,
    "ListServiceQuotas": _list_quotas,
    "ListServices": _list_services,
}
