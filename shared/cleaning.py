"""Stopping and deleting what a workshop made, with a fresh listing as the proof; and listing it."""

from __future__ import annotations

from shared import resources
from shared.display import Output, display, table
from shared.instances import STORAGE_PRICE
from shared.resources import Label


def cleanup(
    clients: resources.Clients,
    bucket: str,
    label: Label,
    poll: float = 1.0,
    logs: bool = False,
    artifacts: bool = False,
) -> None:
    """Stop and delete what `label` selects; show a table of it, and a fresh listing by tag as proof.

    Raises RuntimeError when something is left that should not be.
    """
    sagemaker, s3 = clients("sagemaker"), clients("s3")
    rows = []
    for resource in resources.find(sagemaker, label):
        resources.delete(sagemaker, resource, poll)
        rows.append((resource.kind.label, resource.name, resource.kind.deletion))
    found = [item["Key"] for item in resources.objects(s3, bucket, label)]
    keys = [key for key in found if artifacts or not resources.is_artifact(key)]
    if keys:
        resources.delete_objects(s3, bucket, keys)
        rows.append(("S3 objects", f"s3://{bucket}/{label.s3_prefix()}", f"{len(keys)} deleted"))
    for group in resources.log_groups(clients("logs"), label):
        if logs:
            clients("logs").delete_log_group(logGroupName=group)
        rows.append(("log group", group, "deleted" if logs else "kept, to read"))
    left, objects = resources.find(sagemaker, label), resources.objects(s3, bucket, label)
    kept = [] if artifacts else [item for item in objects if resources.is_artifact(item["Key"])]
    for folder in dict.fromkeys(_job_folder(item["Key"]) for item in kept):
        rows.append(("trained model", f"s3://{bucket}/{folder}", "kept"))
    if rows:
        display(table(rows, columns=["kind", "name", "result"]))
    forgotten = [item["Key"] for item in objects if item not in kept]
    if left or forgotten:
        names = [resource.name for resource in left] + forgotten
        raise RuntimeError(f"still there after the cleanup: {', '.join(names)}. Run the cleanup again.")
    counts = ", ".join(f"0 {kind.label}s" for kind in resources.KINDS)
    listing = f"A new listing by the tags {label} finds {counts}, and {len(kept)} S3 objects"
    if not kept:
        print(f"{listing}: nothing is left that costs money.")
        return
    size = sum(item["Size"] for item in kept)
    print(f"{listing}: what training jobs made, {size / 1e6:,.1f} MB, which on AWS cost {_monthly(size)} a month.")
    print("Delete that too with workshop.cleanup(artifacts=True); in a shell, cleanup --artifacts.")


def _job_folder(key: str) -> str:
    """The folder of one job in s3_uri("jobs")."""
    return "/".join(key.split("/")[:5]) + "/"


def _monthly(size: int) -> str:
    """USD for storing so many bytes in S3 for a month."""
    usd = size / 1e9 * STORAGE_PRICE
    return "less than 0.01 USD" if usd < 0.01 else f"{usd:.2f} USD"


def show_list(clients: resources.Clients, bucket: str, label: Label) -> Output:
    """A table of everything that `label` selects."""
    rows = []
    for resource in resources.find(clients("sagemaker"), label):
        status = (resource.kind.describe(clients("sagemaker"), resource.name) or {}).get(f"{resource.kind.word}Status")
        rows.append((resource.kind.label, resource.name, status or ""))
    for item in resources.objects(clients("s3"), bucket, label):
        rows.append(("S3 object", f"s3://{bucket}/{item['Key']}", f"{item['Size']:,} bytes"))
    return table(rows, columns=["kind", "name", "status"]) if rows else Output("Nothing.", f"Nothing with {label}.")
