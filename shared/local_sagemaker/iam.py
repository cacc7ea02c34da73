"""IAM SimulatePrincipalPolicy, which moto lacks and the SageMaker SDK asks before it uses a role.

The local SageMaker enforces no policies, so everything is allowed to every principal that exists.
"""

from __future__ import annotations

import uuid
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from starlette.responses import Response

from .faults import Fault

_NAMESPACE = "https://iam.amazonaws.com/doc/2010-05-08/"


def simulated_policy_request(body: bytes) -> dict[str, list[str]] | None:
    """The parameters of a SimulatePrincipalPolicy request in the query protocol; None where `body` is another."""
    parameters = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
    return parameters if parameters.get("Action") == ["SimulatePrincipalPolicy"] else None


def simulate_principal_policy(parameters: dict[str, list[str]], principals: set[str]) -> Response:
    """Allow every action on every resource. Raises faults for missing parameters and an unknown principal."""
    source = parameters.get("PolicySourceArn", [""])[0]
    actions = _members(parameters, "ActionNames")
    resources = _members(parameters, "ResourceArns") or ["*"]
    if not source or not actions:
        raise Fault("InvalidInput", "PolicySourceArn and ActionNames are required.")
    if source not in principals:
        raise Fault("NoSuchEntity", f"The principal {source} cannot be found.", 404)
    results = "".join(
        f"<member><EvalActionName>{escape(action)}</EvalActionName><EvalResourceName>{escape(resource)}"
        "</EvalResourceName><EvalDecision>allowed</EvalDecision><MatchedStatements/><MissingContextValues/></member>"
        for action in actions
        for resource in resources
    )
    request_id = str(uuid.uuid4())
    xml = (
        f'<SimulatePrincipalPolicyResponse xmlns="{_NAMESPACE}"><SimulatePrincipalPolicyResult>'
        f"<IsTruncated>false</IsTruncated><EvaluationResults>{results}</EvaluationResults>"
        "</SimulatePrincipalPolicyResult>"
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></SimulatePrincipalPolicyResponse>"
    )
    return Response(xml, headers={"x-amzn-RequestId": request_id}, media_type="text/xml")


def _members(parameters: dict[str, list[str]], name: str) -> list[str]:
    values = []
    while f"{name}.member.{len(values) + 1}" in parameters:
        values.append(parameters[f"{name}.member.{len(values) + 1}"][0])
    return values
