"""model.tar.gz: the same bytes for the same files, nothing that does not belong, never half a file."""

import os
import shutil
import tarfile

import pytest

from shared import packaging
from shared.packaging import make_archive, split_s3


@pytest.fixture
def folders(tmp_path):
    weights, code = tmp_path / "weights", tmp_path / "code"
    for path, content in {
        weights / "config.json": b"{}",
        weights / "model.safetensors": bytes(range(256)) * 100,
        weights / ".cache" / "junk": b"x",
        code / "inference.py": b"def model_fn(model_dir): ...\n",
        code / "helpers" / "tokens.py": b"A = 1\n",
        code / "__pycache__" / "inference.cpython-311.pyc": b"x",
        code / ".hidden": b"x",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return weights, code


def test_the_archive_holds_weights_and_code_and_nothing_else(folders, tmp_path):
    archive = make_archive(tmp_path / "out" / "model.tar.gz", *folders)
    names = ["code/helpers/tokens.py", "code/inference.py", "config.json", "model.safetensors"]
    assert [name for name, _ in archive.members] == names
    with tarfile.open(archive.path) as tar:
        assert tar.getnames() == names
        assert {(m.uid, m.gid, m.mtime, m.uname, m.mode) for m in tar.getmembers()} == {(0, 0, 0, "", 0o644)}
        tar.extractall(tmp_path / "extracted", filter="data")
    extracted = tmp_path / "extracted" / "model.safetensors"
    assert extracted.read_bytes() == (folders[0] / "model.safetensors").read_bytes()
    assert archive.size == archive.path.stat().st_size


def test_the_same_files_give_the_same_bytes_elsewhere_and_later(folders, tmp_path):
    first = make_archive(tmp_path / "a" / "model.tar.gz", *folders)
    copies = [shutil.copytree(folder, tmp_path / "copy" / folder.name) for folder in folders]
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    (copies[1] / "inference.py").chmod(0o600)
    second = make_archive(tmp_path / "b" / "other-name.tar.gz", *copies)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256


def test_changed_code_changes_the_digest(folders, tmp_path):
    first = make_archive(tmp_path / "model.tar.gz", *folders)
    (folders[1] / "inference.py").write_text("changed = True\n")
    assert make_archive(tmp_path / "model.tar.gz", *folders).sha256 != first.sha256


def test_a_hub_model_packs_code_only(folders, tmp_path):
    archive = make_archive(tmp_path / "model.tar.gz", weights=None, code=folders[1])
    assert [name for name, _ in archive.members] == ["code/helpers/tokens.py", "code/inference.py"]


def test_a_failure_keeps_the_old_archive_and_leaves_no_half_one(folders, tmp_path, monkeypatch):
    archive = make_archive(tmp_path / "out" / "model.tar.gz", *folders)
    before = archive.path.read_bytes()

    def disk_full(tar, name, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packaging, "_add", disk_full)
    with pytest.raises(OSError, match="No space left"):
        make_archive(archive.path, *folders)
    assert archive.path.read_bytes() == before
    assert os.listdir(archive.path.parent) == ["model.tar.gz"]


def test_wrong_folders_are_named(folders, tmp_path):
    weights, code = folders
    with pytest.raises(FileNotFoundError, match=r"no inference\.py"):
        make_archive(tmp_path / "m.tar.gz", weights, code=weights)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        make_archive(tmp_path / "m.tar.gz", tmp_path / "missing", code)
    (weights / "code").mkdir()
    (weights / "code" / "inference.py").write_text("")
    with pytest.raises(ValueError, match="code/ already"):
        make_archive(tmp_path / "m.tar.gz", weights, code)


def test_further_folders_are_packed_by_their_names(folders, tmp_path):
    weights, code = folders
    upscaler = tmp_path / "networks"
    upscaler.mkdir()
    (upscaler / "model.safetensors").write_bytes(b"weights")
    archive = make_archive(tmp_path / "m.tar.gz", weights, code, extras={"upscaler": upscaler})
    assert ("upscaler/model.safetensors", 7) in archive.members
    plain = make_archive(tmp_path / "plain.tar.gz", weights, code)
    assert set(archive.members) - set(plain.members) == {("upscaler/model.safetensors", 7)}
    (weights / "upscaler").mkdir()
    (weights / "upscaler" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="upscaler/ already"):
        make_archive(tmp_path / "m.tar.gz", weights, code, extras={"upscaler": upscaler})


def test_s3_urls():
    assert split_s3("s3://bucket/a/b.tar.gz") == ("bucket", "a/b.tar.gz")
    for wrong in ("https://bucket/a", "bucket/a", "s3:///a"):
        with pytest.raises(ValueError, match="no S3 URL"):
            split_s3(wrong)
