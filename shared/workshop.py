"""The one object that a notebook holds: which ground it stands on, its names and tags, and how it cleans up.

    workshop = Workshop(lab="1", backend=BACKEND, model=MODEL)

It sets the environment, so it comes before the import of the SageMaker SDK. From a shell, at the top of the repository:
`python -m shared.workshop list` and `python -m shared.workshop cleanup` (see --help) find and delete what is left.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import json
import os
import re
import sys
from functools import cached_property
from typing import Any, TypeVar

import boto3
from botocore.exceptions import ClientError

from shared import backends, catalogue, diffusion_catalogue, resources, training_jobs, watching
from shared.backends import BackendError, Ground
from shared.cleaning import cleanup, show_list
from shared.container_images import LMI
from shared.display import Output, table
from shared.instances import dollars
from shared.resources import WORKSHOP, JobKind, Label

T = TypeVar("T")
# Labs whose models draw; the others' write.
_CATALOGUES = {"3": diffusion_catalogue}
_ROLE_VARIABLE = "SAGEMAKER_ROLE"
_LOCAL_ROLE = "AmazonSageMaker-ExecutionRole-Local"


class Workshop:
    """A notebook's ground: `ground`, `backend`, `region`, `account`, `owner`, `model`, and what the methods give.

    `model` is an entry of `diffusion_catalogue` for Lab 3, else of `catalogue`. Raises BackendError (see
    `backends.enter`), and what the catalogue's `find` and the entry's `check_fits` raise.
    """

    def __init__(self, lab: str, backend: str = "auto", model: str | os.PathLike[str] = catalogue.EMBEDDED):
        self.lab = str(lab)
        if not re.fullmatch(r"[a-z0-9]{1,4}", self.lab):
            raise ValueError(f'lab={lab!r}, but it is the number of a lab, such as "1"')
        self.model = _CATALOGUES.get(self.lab, catalogue).find(model)
        self.model.check_fits(None if backends.choose(backend) == backends.LOCAL else self.model.instance_type)
        self.ground: Ground = backends.enter(backend)
        self.owner = owner(self.ground)
        self._label = Label(self.lab, self.owner)
        self._clients: dict[str, Any] = {}

    # -- where ------------------------------------------------------------------------------------------------------

    @property
    def backend(self) -> str:
        """ "local" or "sagemaker"."""
        return self.ground.backend

    @property
    def region(self) -> str:
        """The AWS region."""
        return self.ground.region

    @property
    def account(self) -> str:
        """The AWS account's twelve digits."""
        return self.ground.account

    @cached_property
    def session(self):
        """A `sagemaker.core.helper.session_helper.Session` (imports the SDK, which takes seconds).

        What the SDK uploads by itself, such as a training job's code, goes to this lab's place in S3.
        """
        from sagemaker.core.helper.session_helper import Session

        prefix = self._label.s3_prefix().rstrip("/")
        if self.ground.is_local:  # else it asks AWS's own STS for the account
            return Session(default_bucket=self.bucket, default_bucket_prefix=prefix)
        return Session(default_bucket_prefix=prefix)

    @cached_property
    def bucket(self) -> str:
        """The S3 bucket for the lab's files: the SDK's default bucket."""
        if self.ground.is_local:
            return f"sagemaker-{self.region}-{self.account}"
        return self.session.default_bucket()

    @cached_property
    def role(self) -> str:
        """The ARN of the role that endpoints and jobs run with.

        The notebook's own role in Studio; elsewhere the environment variable SAGEMAKER_ROLE. Raises BackendError
        without either.
        """
        if self.ground.is_local:
            return self.client("iam").get_role(RoleName=_LOCAL_ROLE)["Role"]["Arn"]
        if named := os.environ.get(_ROLE_VARIABLE):
            return named
        from sagemaker.core.helper.session_helper import get_execution_role

        try:
            return get_execution_role(self.session)
        except ValueError as error:
            raise BackendError(
                f"{self.ground.caller} is no role that SageMaker could take. Set {_ROLE_VARIABLE} to the ARN of a "
                "SageMaker execution role (IAM console, roles, AmazonSageMaker-ExecutionRole-...), before the notebook."
            ) from error

    @property
    def price_per_hour(self) -> float | None:
        """USD per hour that the model's endpoint costs here: 0.0 locally; None when the price is not known."""
        return 0.0 if self.ground.is_local else self.model.price_per_hour

    def client(self, service: str):
        """A boto3 client for `service`, such as "sagemaker-runtime", in the right region; the same one each time."""
        if service not in self._clients:
            self._clients[service] = boto3.client(service, region_name=self.region)
        return self._clients[service]

    # -- names and tags -----------------------------------------------------------------------------------------------

    def name(self, kind: str, *content: Any) -> str:
        """A valid name, the same each time for this owner, lab, `kind` (as "endpoint") and `content`.

        Give what makes the thing different as `content` (texts, numbers, lists or dicts of them: an archive's SHA-256,
        a container), and changed content gets a new name. At most 63 characters:
        genai-workshop-lab1-endpoint-<owner>-<8 digits>. For a training job take the kind "job": the SDK adds the
        time, and both together have room in 63 characters. Raises TypeError for other content: it has no stable text.
        """
        if not re.fullmatch(r"[a-z][a-z0-9]{0,15}", kind):
            raise ValueError(f"kind={kind!r}, but it is one short word in small letters, such as 'endpoint'")
        return f"{WORKSHOP}-lab{self.lab}-{kind}-{self.owner}-{self._digits(kind, *content)}"

    def tuning_name(self, *content: Any) -> str:
        """The same for a hyperparameter tuning job, whose name may have 32 characters, 12 of which the SDK adds."""
        return f"{WORKSHOP}-{self._digits('tuning', *content)[:5]}"

    def _digits(self, kind: str, *content: Any) -> str:
        try:
            whole = json.dumps([self.account, self.region, self.owner, self.lab, kind, *content], sort_keys=True)
        except TypeError as error:
            raise TypeError(f"{error}: names are made of texts, numbers, and lists or dicts of them") from None
        return hashlib.sha256(whole.encode()).hexdigest()[:8]

    def s3_uri(self, *path: str) -> str:
        """A place for this lab's files: s3://<bucket>/genai-workshop/<owner>/lab1/<path>. `cleanup` empties it.

        All but s3_uri("jobs"), the place for what training jobs make: see `cleanup`.
        """
        return f"s3://{self.bucket}/{self._label.s3_prefix()}" + "/".join(path)

    @property
    def tags(self) -> list[dict[str, str]]:
        """The tags of this lab as the SageMaker SDK wants them: [{"key": ..., "value": ...}]."""
        tags = self._label.tags() | {"created-by": "shared.workshop"}
        return [{"key": key, "value": value} for key, value in tags.items()]

    @property
    def aws_tags(self) -> list[dict[str, str]]:
        """The same tags as boto3 and the API want them: [{"Key": ..., "Value": ...}]."""
        return [{"Key": tag["key"], "Value": tag["value"]} for tag in self.tags]

    def container(self, model_data: str) -> dict[str, Any]:
        """The container definition that serves `self.model` with the archive at `model_data`, for ContainerDefinition.

        On AWS an LMI image brings its own server, loads the Hub model that its environment names, and would take the
        archive's code/ for a second model; so it gets no archive there.
        """
        container = {"image": self.model.image_uri(self.region), "environment": dict(self.model.environment)}
        if self.ground.is_local or self.model.image != LMI:
            container["model_data_url"] = model_data
        return container

    def tuned_container(self, job: Any) -> dict[str, Any]:
        """The container definition that serves what a finished training job (an SDK resource, or its name) made."""
        description = self._job(job)
        if description["TrainingJobStatus"] != "Completed":
            raise ValueError(f"{_job_name(job)} is {description['TrainingJobStatus']}: it made no model to serve")
        return {
            "image": self.model.tuned_image_uri(self.region),
            "environment": {},
            "model_data_url": description["ModelArtifacts"]["S3ModelArtifacts"],
        }

    # -- running a cell again ---------------------------------------------------------------------------------------

    def existing(self, resource: type[T], name: str, **expected: Any) -> T | None:
        """The SDK resource (as `Endpoint`) of that name if it is there and usable, else None.

        One that failed, or whose attributes differ from `expected`, is deleted first, so that it can be made again:
        `workshop.existing(Endpoint, name, endpoint_config_name=...) or Endpoint.create(...)`.

        On AWS every run of a job has a name of its own, which begins with the trainer's or tuner's base name. So for a
        job `name` is the base name (make it with `name` from all settings), and the newest job with it is taken if it
        runs or has completed: the same settings are not paid for twice. Jobs that failed are left as they are.
        """
        kind = next((kind for kind in resources.KINDS if kind.word == resource.__name__), None)
        if kind is None:
            words = ", ".join(kind.word for kind in resources.KINDS)
            raise TypeError(f"{resource.__name__} cannot be looked up: existing() knows {words}")
        client = self.client("sagemaker")
        if isinstance(kind, JobKind):
            with backends.explained(self.ground):
                job = training_jobs.newest(client, self.client("s3"), kind, name)
                return resource.get(job) if job else None
        with backends.explained(self.ground):
            description = kind.describe(client, name)
            if description is None:
                return None
            argument = re.sub(r"(?<!^)([A-Z])", r"_\1", kind.word).lower()
            found = resource.get(**{f"{argument}_name": name})
            status = description.get(f"{kind.word}Status", "")
            different = [key for key, value in expected.items() if getattr(found, key, None) != value]
            if not different and status not in ("Failed", "OutOfService", "Deleting", "UpdateRollbackFailed"):
                print(f"re-attached to the {kind.label} {name}" + (f" ({status})" if status else ""))
                return found
            why = f"differs in {', '.join(different)}" if different else f"is {status}"
            print(f"the {kind.label} {name} {why}: deleting it, to make it anew")
            resources.delete(
                client, resources.Resource(kind, name, description[f"{kind.word}Arn"], {}), self._poll
            )
        return None

    def track(self, resource: Any) -> Any:
        """Make `resource` this workshop's: put our tags on what other code made without them. Returns it.

        `resource` is an SDK resource, or the ARN of a SageMaker resource. Its name must begin with genai-workshop- (as
        `name` gives it), or `cleanup` could not find it: ValueError otherwise.
        """
        arn = resource if isinstance(resource, str) else _arn(resource)
        if not arn.startswith("arn:") or not arn.split("/")[-1].startswith(f"{WORKSHOP}-"):
            raise ValueError(
                f"{arn!r} is not the ARN of something named {WORKSHOP}-...: name it with workshop.name(kind)"
            )
        with backends.explained(self.ground):
            self.client("sagemaker").add_tags(ResourceArn=arn, Tags=self.aws_tags)
        return resource

    # -- looking at an endpoint or a training job -------------------------------------------------------------------

    def watch(self, resource: Any, timeout: float | None = None, **options: Any) -> None:
        """Show the endpoint's status and log lines until it is in service; see `watching.watch` for what it raises.

        For a training job (an SDK resource) until it ends, with a chart of its losses: `training_jobs.watch`, which
        says what `options` there are. Without `timeout` (seconds): half an hour for an endpoint, two hours for a job.
        """
        clients = self.client("sagemaker"), self.client("logs")
        with backends.explained(self.ground):
            if name := _job_name(resource):
                options = {"timeout": timeout or 7200.0, "log_delay": 0.0 if self.ground.is_local else 5.0} | options
                training_jobs.watch(*clients, name, self._poll, **options)
            else:
                watching.watch(*clients, _endpoint_name(resource), self._poll, timeout or 1800.0, **options)

    def metrics(self, job: Any) -> dict[str, list[tuple[float, float]]]:
        """The metrics of a training job (an SDK resource, or its name): (step, value) in order, by metric name."""
        with backends.explained(self.ground):
            name = _job_name(job) or job
            return training_jobs.metrics(self.client("sagemaker"), self.client("logs"), name)

    def cost(self, *jobs: Any) -> Output:
        """A table of what ended training jobs (SDK resources, or names) are billed for, and what that is on AWS."""
        return training_jobs.cost(self._job(job) for job in jobs)

    def _job(self, job: Any) -> dict[str, Any]:
        with backends.explained(self.ground):
            return training_jobs.describe(self.client("sagemaker"), _job_name(job) or job)

    def logs(self, resource: Any, last: int = 20) -> list[str]:
        """The last log lines of the containers of an endpoint or a training job."""
        with backends.explained(self.ground):
            logs = self.client("logs")
            if name := _job_name(resource):
                reader = training_jobs.log_reader(logs, name)
            else:
                reader = watching.LogReader(logs, self.log_group(resource))
            return list(reader.new_lines())[-last:]

    def log_group(self, resource: Any) -> str:
        """The CloudWatch log group of the endpoint; all training jobs share one."""
        return resources.TRAINING_LOGS if _job_name(resource) else resources.ENDPOINT_LOGS + _endpoint_name(resource)

    # -- cleaning up ------------------------------------------------------------------------------------------------

    def cleanup(self, all: bool = False, logs: bool = False, artifacts: bool = False) -> None:
        """Stop and delete what this lab made (with `all`, what all labs of this workshop made, crashed runs included).

        Found by tag, so it works after a kernel restart too, and a second time. Two things cost next to nothing and are
        kept unless asked for: the endpoints' log groups (`logs`), and in S3 what training jobs made (`artifacts`), as
        training was dear. The records and logs of ended jobs stay, and cost nothing.
        """
        label = Label(None if all else self.lab, self.owner)
        if self.ground.is_local and backends.local_environment() is None:
            print(_NOTHING_RUNS)
            return
        with backends.explained(self.ground):
            cleanup(self.client, self.bucket, label, self._poll, logs, artifacts)
        if self.ground.is_local:
            print("On this machine none of it cost anything.")

    @property
    def _poll(self) -> float:
        return 0.2 if self.ground.is_local else 1.0

    # -- the card -----------------------------------------------------------------------------------------------------

    def _facts(self) -> list[tuple[str, str]]:
        price = self.price_per_hour
        where = f"this machine, {self.ground.url}" if self.ground.is_local else "Amazon SageMaker"
        cost = "unknown, see the pricing page" if price is None else f"{dollars(price)} per hour"
        if self.ground.is_local and self.model.price_per_hour is not None:
            cost = f"nothing here (on AWS {dollars(self.model.price_per_hour)} per hour, {self.model.instance_type})"
        return [
            ("backend", f"{self.backend} ({where})"),
            ("region", self.region),
            ("account", self.account),
            ("role", self.role.split("/")[-1]),
            ("bucket", self.bucket),
            ("model", f"{self.model.model_id}, {self.model.parameters:,} parameters"),
            ("endpoint costs", cost),
        ]

    def _card(self) -> Output:
        return table(self._facts(), columns=["workshop", f"lab {self.lab}"])

    def __repr__(self) -> str:
        return self._card().text

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return self._card()._repr_mimebundle_()


def owner(ground: Ground) -> str:
    """Who is working, as a short word for names and tags: the Studio user, the AWS caller, or the local login."""
    if backends.METADATA_FILE.exists():
        metadata = json.loads(backends.METADATA_FILE.read_text())
        who = metadata.get("UserProfileName") or metadata.get("SpaceName") or metadata.get("ResourceName") or "studio"
    else:
        who = getpass.getuser() if ground.is_local else ground.caller.split("/")[-1].split(":")[-1]
    word = re.sub(r"[^a-z0-9]+", "-", who.lower()).strip("-")
    if word == who and len(word) <= 14:
        return word
    # Shortened or changed, so that two people could come to the same word: the digits tell them apart.
    return f"{word[:9].strip('-') or 'user'}-{hashlib.sha256(who.encode()).hexdigest()[:4]}"


_NOTHING_RUNS = (
    "The local SageMaker is not running, so nothing is left: what it ran ended with it, and none of it cost anything."
)


def _arn(resource: Any) -> str:
    """The ARN of an SDK resource: its attribute endpoint_arn, model_arn, ..."""
    values = [value for name, value in vars(resource).items() if name.endswith("_arn") and isinstance(value, str)]
    word = f"/{resource.get_name()}"
    return next((value for value in values if value.endswith(word)), "")


def _job_name(resource: Any) -> str | None:
    """The name of an SDK TrainingJob, None for anything else."""
    return getattr(resource, "training_job_name", None)


def _endpoint_name(endpoint: Any) -> str:
    return endpoint if isinstance(endpoint, str) else endpoint.endpoint_name


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m shared.workshop", description="Find or delete what the workshop's notebooks left."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("list", "show what carries the workshop's tags"), ("cleanup", "delete it")):
        command = commands.add_parser(name, help=what)
        which = command.add_mutually_exclusive_group()
        which.add_argument("--lab", help="of one lab only, such as 1 (default: of all labs)")
        which.add_argument("--all", action="store_true", help="of all labs (the default, said aloud)")
        command.add_argument("--all-owners", action="store_true", help="of everybody in this account and region")
        command.add_argument("--backend", default="auto", choices=["auto", backends.LOCAL, backends.SAGEMAKER])
        if name == "cleanup":
            command.add_argument("--logs", action="store_true", help="delete the endpoints' log groups too")
            command.add_argument("--artifacts", action="store_true", help="delete the models of training jobs too")
    options = parser.parse_args(arguments)
    try:
        ground = backends.enter(options.backend, start=False)
        if ground is None:
            print(_NOTHING_RUNS)
            return 0
        label = Label(options.lab, None if options.all_owners else owner(ground))
        bucket = f"sagemaker-{ground.region}-{ground.account}"
        with backends.explained(ground):
            if options.command == "list":
                print(show_list(boto3.client, bucket, label))
            else:
                poll = 0.2 if ground.is_local else 1.0
                cleanup(boto3.client, bucket, label, poll, options.logs, options.artifacts)
    except (RuntimeError, OSError, ClientError) as error:  # BackendError is a RuntimeError
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
