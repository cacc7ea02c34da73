"""The workshop object on a real local SageMaker: environment, names, running cells again, cleanup, a dead server."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import numpy
import pytest
from botocore.exceptions import ClientError
from safetensors.numpy import save_file

from shared import backends, resources, watching
from shared import workshop as module
from shared.backends import BackendError, Ground, LocalServerDied
from shared.packaging import make_archive, upload
from shared.resources import Label
from shared.workshop import Workshop

ROOT = Path(__file__).resolve().parent.parent
HANDLER = """
import json, os
def model_fn(model_dir):
    print("loading", sorted(os.listdir(model_dir)))
    return "model"
def predict_fn(data, model):
    return {"generated_text": data["inputs"] + " ..."}
"""


def local_sagemaker(*arguments):
    command = [sys.executable, "-m", "shared.local_sagemaker", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def shell(*arguments):
    """The command line as the runner calls it."""
    command = [sys.executable, "-m", "shared.workshop", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Undo what Workshop does to this process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    backends._before.clear()
    backends._forget_clients()


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A state folder for this file's server, named in the environment, stopped at the end."""
    folder = tmp_path_factory.mktemp("state")
    patch = pytest.MonkeyPatch()
    patch.setenv("SAGEMAKER_LOCAL_STATE", str(folder))
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        patch.delenv(name, raising=False)
    yield folder
    local_sagemaker("stop")
    patch.undo()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"a": numpy.zeros((10, 20), "float16")}, folder / "model.safetensors")
    return folder


@pytest.fixture
def workshop(state, model):
    workshop = Workshop(lab="1", backend="local", model=model)
    yield workshop
    if backends.local_environment():
        module.cleanup(workshop.client, workshop.bucket, Label(None, None), 0.1, logs=True)


def code(folder, text=HANDLER):
    folder.mkdir(exist_ok=True)
    (folder / "inference.py").write_text(text)
    return folder


def deploy(workshop, code_folder, destination):
    """The cells of a notebook that make an endpoint."""
    from sagemaker.core.resources import Endpoint, EndpointConfig, Model
    from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

    archive = make_archive(destination / "model.tar.gz", weights=workshop.model.weights, code=code_folder)
    container = workshop.container(upload(archive, workshop.s3_uri("model")))
    name = workshop.name("model", container)
    model = workshop.existing(Model, name) or Model.create(
        model_name=name,
        primary_container=ContainerDefinition(**container),
        execution_role_arn=workshop.role,
        tags=workshop.tags,
    )
    variant = ProductionVariant(
        variant_name="AllTraffic",
        model_name=model.model_name,
        instance_type=workshop.model.instance_type,
        initial_instance_count=1,
        **workshop.model.variant_options,
    )
    name = workshop.name("config", variant.model_name, variant.instance_type)
    config = workshop.existing(EndpointConfig, name) or EndpointConfig.create(
        endpoint_config_name=name, production_variants=[variant], tags=workshop.tags
    )
    name = workshop.name("endpoint")
    return workshop.existing(Endpoint, name, endpoint_config_name=config.endpoint_config_name) or Endpoint.create(
        endpoint_name=name, endpoint_config_name=config.endpoint_config_name, tags=workshop.tags
    )


def create_model(workshop, name, tags):
    """A model by boto3, which needs no archive; returns its ARN."""
    image = workshop.model.image_uri(workshop.region)
    return workshop.client("sagemaker").create_model(
        ModelName=name, PrimaryContainer={"Image": image}, ExecutionRoleArn=workshop.role, Tags=tags
    )["ModelArn"]


def model_names(workshop):
    return [model["ModelName"] for model in workshop.client("sagemaker").list_models()["Models"]]


# -- a notebook's life ------------------------------------------------------------------------------------------------


def test_a_notebook_deploys_looks_runs_again_and_cleans_up(workshop, tmp_path, capsys):
    handler = code(tmp_path / "code")
    endpoint = deploy(workshop, handler, tmp_path)
    workshop.watch(endpoint)
    output = capsys.readouterr().out
    assert "Creating" in output and "InService" in output and "| loading ['code', 'config.json'" in output
    answer = workshop.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint.endpoint_name, ContentType="application/json", Body=b'{"inputs": "hi"}'
    )
    assert json.loads(answer["Body"].read()) == {"generated_text": "hi ..."}
    assert any("loading" in line for line in workshop.logs(endpoint))
    assert workshop.log_group(endpoint) == f"/aws/sagemaker/Endpoints/{endpoint.endpoint_name}"

    # The same cells in a new kernel, nothing changed: the same endpoint.
    again = Workshop(lab="1", backend="local", model=workshop.model.weights)
    same = deploy(again, handler, tmp_path)
    assert same.creation_time == endpoint.creation_time
    assert capsys.readouterr().out.count("re-attached") == 3
    again.watch(same)
    assert capsys.readouterr().out.split() == ["0:00", "InService"]

    # Changed code: one endpoint still, which runs the new code.
    code(handler, HANDLER.replace("...", "!"))
    changed = deploy(again, handler, tmp_path)
    assert "differs in endpoint_config_name: deleting it" in capsys.readouterr().out
    again.watch(changed)
    assert capsys.readouterr().out.count("| loading") == 1  # not the lines that the first one of this name wrote
    assert len(again.client("sagemaker").list_endpoints()["Endpoints"]) == 1
    assert json.loads(changed.invoke(body=b'{"inputs": "hi"}', content_type="application/json").body.read()) == {
        "generated_text": "hi !"
    }

    capsys.readouterr()
    again.cleanup()
    output = capsys.readouterr().out
    assert endpoint.endpoint_name in output and "0 endpoints, 0 endpoint configs, 0 models, and 0 S3 objects" in output
    assert "kept, to read" in output and "cost" in output
    client = again.client("sagemaker")
    assert not client.list_endpoints()["Endpoints"] and not client.list_models()["Models"]
    assert not client.list_endpoint_configs()["EndpointConfigs"]
    assert "Contents" not in again.client("s3").list_objects_v2(Bucket=again.bucket)
    again.cleanup()  # nothing left to delete: no error


def test_a_handler_that_fails_ends_the_watch_with_reason_and_log(workshop, tmp_path, capsys):
    broken = code(tmp_path / "code", "def model_fn(model_dir):\n    raise RuntimeError('no such weights')\n")
    endpoint = deploy(workshop, broken, tmp_path)
    with pytest.raises(watching.EndpointFailed, match=r"(?s)is Failed: .+Last lines of its log group.+no such weights"):
        workshop.watch(endpoint)
    # Running the cell again after the repair replaces the failed endpoint.
    from sagemaker.core.resources import Endpoint

    capsys.readouterr()
    assert workshop.existing(Endpoint, endpoint.endpoint_name) is None
    assert "is Failed: deleting it" in capsys.readouterr().out
    with pytest.raises(ClientError, match="Could not find"):
        workshop.client("sagemaker").describe_endpoint(EndpointName=endpoint.endpoint_name)


def test_watching_ends_after_its_timeout(workshop, tmp_path):
    endpoint = deploy(workshop, code(tmp_path / "code", "import time\ntime.sleep(4)\n" + HANDLER), tmp_path)
    with pytest.raises(TimeoutError, match="still Creating"):
        workshop.watch(endpoint, timeout=0.5)


def test_a_long_log_is_cut_short(workshop, tmp_path):
    lines = []
    # Slow to start: of an endpoint that is in service when the watch begins no log is shown.
    talking = "import time\nfor i in range(50):\n    print('line', i, flush=True)\ntime.sleep(3)\n"
    talkative = code(tmp_path / "code", talking + HANDLER)
    endpoint = deploy(workshop, talkative, tmp_path)
    clients = workshop.client("sagemaker"), workshop.client("logs")
    watching.watch(*clients, endpoint.endpoint_name, 0.1, most_lines=5, say=lines.append)
    assert sum("| line" in line for line in lines) <= 5
    assert sum("more in the log group" in line for line in lines) == 1


# -- names, tags, the card ------------------------------------------------------------------------------------------


def test_names_are_stable_valid_and_follow_the_content(workshop, model):
    name = workshop.name("endpoint")
    assert name == Workshop(lab="1", backend="local", model=model).name("endpoint")
    assert name != Workshop(lab="2", backend="local", model=model).name("endpoint")
    assert name.startswith("genai-workshop-lab1-endpoint-") and len(name) <= 63
    assert workshop.name("model", {"a": 1}) != workshop.name("model", {"a": 2})
    assert workshop.name("model", {"a": 1, "b": 2}) == workshop.name("model", {"b": 2, "a": 1})
    with pytest.raises(ValueError, match="kind="):
        workshop.name("My_Endpoint")
    with pytest.raises(TypeError):
        workshop.name("config", object())


def test_owners_are_short_and_told_apart(monkeypatch, tmp_path):
    def caller(name):
        return module.owner(Ground("sagemaker", "us-east-1", "1" * 12, f"arn:aws:sts::1:assumed-role/Role/{name}"))

    assert caller("anna") == "anna"
    names = ("Anna.Long-Name@example.com", "anna-long-name-example-org", "Anna", "Ünal", "!!")
    words = [caller(name) for name in names]
    assert len(set(words)) == len(words)
    assert all(len(word) <= 14 and re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", word) for word in words)
    metadata = tmp_path / "metadata.json"
    metadata.write_text('{"UserProfileName": "student-7", "DomainId": "d-1"}')
    monkeypatch.setattr(backends, "METADATA_FILE", metadata)
    assert caller("anna") == "student-7"


def test_the_card_says_where_one_is_and_what_it_costs(workshop):
    bundle = workshop._repr_mimebundle_()
    for text in (bundle["text/html"], bundle["text/plain"], repr(workshop)):
        assert "local" in text and "us-east-1" in text and workshop.bucket in text
        assert "nothing here (on AWS 0.23 USD per hour" in text
    assert workshop.price_per_hour == 0.0
    assert workshop.session.default_bucket() == workshop.bucket
    assert workshop.role.startswith(f"arn:aws:iam::{workshop.account}:role/")


# -- cleanup touches only what is ours --------------------------------------------------------------------------------


def test_cleanup_deletes_by_tag_and_lab_and_never_what_is_not_ours(workshop, model, capsys):
    other_lab = Workshop(lab="2", backend="local", model=model)
    other_owner = {"workshop": "genai-workshop", "workshop-lab": "1", "workshop-owner": "somebody-else"}
    create_model(workshop, "genai-workshop-lab1-model-mine", workshop.aws_tags)
    create_model(workshop, "genai-workshop-lab2-model-mine", other_lab.aws_tags)
    create_model(workshop, "genai-workshop-lab1-untagged", [])
    create_model(workshop, "genai-workshop-lab1-other", [{"Key": k, "Value": v} for k, v in other_owner.items()])
    create_model(workshop, "production", workshop.aws_tags)  # our tags, but not our name
    bucket = workshop.bucket
    s3 = workshop.client("s3")
    theirs = "genai-workshop/somebody-else/lab1/x"
    for key in (f"genai-workshop/{workshop.owner}/lab1/x", f"genai-workshop/{workshop.owner}/lab2/x", theirs, "data"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")

    workshop.cleanup()
    assert sorted(model_names(workshop)) == [
        "genai-workshop-lab1-other", "genai-workshop-lab1-untagged", "genai-workshop-lab2-model-mine", "production",
    ]  # fmt: skip
    workshop.cleanup(all=True)
    assert "genai-workshop-lab2-model-mine" not in model_names(workshop)
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["data", theirs]

    assert "genai-workshop-lab1-other" in shell("list", "--all-owners").stdout
    assert shell("cleanup", "--all-owners", "--lab", "2").returncode == 0
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["data", theirs]
    assert shell("cleanup", "--all-owners").returncode == 0
    assert sorted(model_names(workshop)) == ["genai-workshop-lab1-untagged", "production"]
    for name in model_names(workshop):
        workshop.client("sagemaker").delete_model(ModelName=name)
    s3.delete_object(Bucket=bucket, Key="data")


def test_deletion_itself_refuses_what_has_no_tags(workshop):
    arn = create_model(workshop, "genai-workshop-lab1-untagged", [])
    untagged = resources.Resource(resources.MODEL, "genai-workshop-lab1-untagged", arn, {})
    with pytest.raises(PermissionError, match="does not carry"):
        resources.delete(workshop.client("sagemaker"), untagged, 0.1)
    workshop.track(arn)  # now it is ours
    workshop.cleanup()
    assert model_names(workshop) == []


def test_track_takes_sdk_resources_and_refuses_foreign_names(workshop, tmp_path):
    from sagemaker.core.resources import Model

    create_model(workshop, workshop.name("model"), [])
    tracked = workshop.track(Model.get(workshop.name("model")))
    assert tracked.model_name == workshop.name("model")
    found = resources.find(workshop.client("sagemaker"), Label("1", workshop.owner))
    assert [resource.name for resource in found] == [tracked.model_name]
    with pytest.raises(ValueError, match="name it with"):
        workshop.track("arn:aws:sagemaker:us-east-1:123456789012:model/production")
    with pytest.raises(TypeError, match="knows .*Endpoint"):
        workshop.existing(Path, "x")


def test_a_crashed_run_is_found_by_the_command_line(workshop, tmp_path):
    endpoint = deploy(workshop, code(tmp_path / "code"), tmp_path)  # and the kernel dies here, while it is Creating
    listed = shell("list", "--lab", "1", "--backend", "local")
    assert endpoint.endpoint_name in listed.stdout and "S3 object" in listed.stdout
    assert shell("cleanup", "--lab", "2").returncode == 0
    cleaned = shell("cleanup", "--lab", "1", "--logs")
    assert cleaned.returncode == 0, cleaned.stderr
    assert endpoint.endpoint_name in cleaned.stdout and "nothing is left" in cleaned.stdout
    assert not workshop.client("sagemaker").list_endpoints()["Endpoints"]
    assert "Nothing with" in shell("list").stdout


# -- a server that is gone ------------------------------------------------------------------------------------------


def kill_server():
    pid = json.loads((Path(os.environ["SAGEMAKER_LOCAL_STATE"]) / "server.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    while backends.local_environment() is not None:
        time.sleep(0.05)


def test_a_killed_server_is_explained_and_a_new_workshop_starts_another(workshop, model, capsys):
    from sagemaker.core.resources import Endpoint

    kill_server()
    with pytest.raises(LocalServerDied, match="(?s)does not answer any more.*run this notebook again from its first"):
        workshop.existing(Endpoint, workshop.name("endpoint"))
    with pytest.raises(LocalServerDied):
        workshop.watch("genai-workshop-lab1-endpoint")
    workshop.cleanup()
    assert "is not running, so nothing is left" in capsys.readouterr().out

    again = Workshop(lab="1", backend="local", model=model)
    assert again.existing(Endpoint, again.name("endpoint")) is None
    assert again.client("sagemaker").list_endpoints()["Endpoints"] == []


def test_cleanup_without_a_server_starts_none(state):
    local_sagemaker("stop")
    for command in ("list", "cleanup"):
        answer = shell(command, "--all", "--backend", "local")
        assert answer.returncode == 0 and "nothing is left" in answer.stdout
    assert backends.local_environment() is None


def test_a_notebook_cell_that_meets_a_dead_server_explains_it(state, model):
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    cells = [
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from shared.workshop import Workshop\n"
        f"workshop = Workshop(lab='1', backend='local', model={str(model)!r})\nworkshop",
        "import subprocess\n"
        f"_ = subprocess.run([sys.executable, '-m', 'shared.local_sagemaker', 'stop'], cwd={str(ROOT)!r}, check=True)",
        "workshop.client('sagemaker').list_endpoints()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with pytest.raises(CellExecutionError):
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    first, _, last = notebook.cells
    assert any("local" in output.get("data", {}).get("text/html", "") for output in first.outputs)
    (error,) = (output for output in last.outputs if output.output_type == "error")
    assert error.ename == "LocalServerDied" and "run this notebook again from its first cell" in error.evalue


# -- which ground -----------------------------------------------------------------------------------------------------


def test_auto_is_sagemaker_inside_studio_and_local_elsewhere(monkeypatch, tmp_path):
    for name in backends._STUDIO_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(backends, "METADATA_FILE", tmp_path / "missing.json")
    assert backends.choose("auto") == "local"
    monkeypatch.setenv("SAGEMAKER_SPACE_NAME", "my-space")
    assert backends.choose("auto") == "sagemaker"
    monkeypatch.delenv("SAGEMAKER_SPACE_NAME")
    (tmp_path / "metadata.json").write_text("{}")
    monkeypatch.setattr(backends, "METADATA_FILE", tmp_path / "metadata.json")
    assert backends.choose("auto") == "sagemaker"
    assert backends.choose("local") == "local"
    with pytest.raises(BackendError, match='"auto", "local", "sagemaker"'):
        backends.choose("cloud")


def test_local_overrules_what_would_send_clients_elsewhere(state, model, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    workshop = Workshop(lab="1", backend="local", model=model)
    assert workshop.client("sagemaker").list_models()["Models"] == []
    assert workshop.client("s3").list_buckets()["Buckets"]
    backends._restore_environment()
    assert os.environ["AWS_PROFILE"] == "work" and "AWS_ENDPOINT_URL" not in os.environ


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


def test_sagemaker_without_credentials_or_region_says_what_to_do(no_credentials, monkeypatch):
    with pytest.raises(BackendError, match="no AWS credentials were found"):
        backends.enter("sagemaker")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(BackendError, match="no AWS region is set"):
        backends.enter("sagemaker")


def test_sagemaker_ignores_what_the_local_server_left_in_the_shell(state, no_credentials, monkeypatch, capsys):
    local_sagemaker("start")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setattr(boto3.session.Session, "get_credentials", lambda self: None)  # no search for a real account
    for name, value in backends.local_environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BackendError, match="no AWS credentials were found"):
        backends.enter("sagemaker")
    assert not [name for name in os.environ if name.startswith("AWS_")]
    assert "ignoring AWS_ENDPOINT_URL" in capsys.readouterr().out


def test_sagemaker_keeps_a_users_own_settings(state, no_credentials, monkeypatch):
    """STS of the local server stands for AWS's here, reached as a user would reach a private endpoint of STS."""
    local_sagemaker("start")
    values = backends.local_environment()
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", values["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:1")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", values["AWS_ACCESS_KEY_ID"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", values["AWS_SECRET_ACCESS_KEY"])
    ground = backends.enter("sagemaker")
    assert (ground.backend, ground.region, ground.is_local) == ("sagemaker", "eu-west-1", False)
    assert "AWS_ENDPOINT_URL" not in os.environ and os.environ["AWS_ACCESS_KEY_ID"] == values["AWS_ACCESS_KEY_ID"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA0000000000000000")
    with pytest.raises(BackendError, match="AWS refuses the credentials"):
        backends.enter("sagemaker")


def test_bad_parameters_are_refused_before_anything_starts(state, model):
    with pytest.raises(ValueError, match="lab="):
        Workshop(lab="lab one", backend="local", model=model)
    with pytest.raises(BackendError, match="BACKEND"):
        Workshop(lab="1", backend="aws", model=model)
