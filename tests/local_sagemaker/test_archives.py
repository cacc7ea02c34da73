"""Extraction of model.tar.gz: everything or nothing, and never outside."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hosting_harness import write_archive
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.local_sagemaker.archives import ArchiveError, extract

name = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
)
names = name.filter(lambda text: text not in (".", "..") and text.strip(" ."))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def members(path: Path, *infos: tarfile.TarInfo, data: bytes = b"data") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info in infos:
            if info.isreg():
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                tar.addfile(info)
    return path


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def assert_refused(archive: Path, folder: Path, *, match: str | None = None) -> None:
    """Refused, and nothing of it is left beside the archive."""
    before = {path for path in folder.rglob("*")}
    with pytest.raises(ArchiveError, match=match):
        extract(archive, folder / "model")
    assert {path for path in folder.rglob("*")} == before


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(names, st.dictionaries(names, st.binary(max_size=2000), min_size=1, max_size=4), max_size=4))
def test_what_was_packed_comes_out(folders: dict[str, dict[str, bytes]]) -> None:
    files = {f"{folder}/{file}": data for folder, inside in folders.items() for file, data in inside.items()}
    with tempfile.TemporaryDirectory() as folder:
        archive = write_archive(Path(folder, "model.tar.gz"), files)
        extract(archive, Path(folder, "model"))
        assert tree(Path(folder, "model")) == files
        assert sorted(path.name for path in Path(folder).iterdir()) == ["model", "model.tar.gz"]


@settings(max_examples=80, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["flip", "cut", "grow", "zero"]))
def test_a_damaged_archive_is_refused_or_comes_out_whole(chance: random.Random, damage: str) -> None:
    files = {"config.json": b'{"a": 1}', "weights/model.bin": chance.randbytes(3000), "empty": b""}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = write_archive(folder / "model.tar.gz", files)
        data = bytearray(archive.read_bytes())
        position = chance.randrange(len(data))
        if damage == "flip":
            data[position] ^= 1 << chance.randrange(8)
        elif damage == "cut":
            del data[position:]
        elif damage == "grow":
            data[position:position] = chance.randbytes(10)
        else:
            data[position : position + 100] = bytes(100)
        archive.write_bytes(data)
        try:
            extract(archive, folder / "model")
        except ArchiveError:
            assert [path.name for path in folder.iterdir()] == ["model.tar.gz"]
        else:
            assert tree(folder / "model") == files


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_damaged_tar_in_a_sound_gzip_loses_no_member_in_silence(chance: random.Random) -> None:
    files = {f"file{number}": bytes([number]) * 700 for number in range(4)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = write_archive(folder / "model.tar.gz", files)
        data = bytearray(gzip.decompress(archive.read_bytes()))
        # The magic and checksum fields of one member's header.
        start = 1536 * chance.randrange(4)
        data[start + chance.randrange(148, 156)] = 0x39
        archive.write_bytes(gzip.compress(bytes(data)))
        try:
            extract(archive, folder / "model")
        except ArchiveError:
            assert not (folder / "model").exists()
        else:
            assert tree(folder / "model") == files


@pytest.mark.parametrize(
    "infos",
    [
        [info("../outside")],
        [info("inside/../../outside")],
        [info("/etc/outside")],
        [info("link", tarfile.SYMTYPE, "/etc"), info("link/outside")],
        [info("link", tarfile.SYMTYPE, ".."), info("link/outside")],
        [info("folder", tarfile.DIRTYPE), info("folder/link", tarfile.SYMTYPE, "../../..")],
        [info("passwd", tarfile.SYMTYPE, "/etc/passwd")],
        [info("passwd", tarfile.LNKTYPE, "/etc/passwd")],
        [info("passwd", tarfile.LNKTYPE, "../../etc/passwd")],
        [info("pipe", tarfile.FIFOTYPE)],
        [info("disk", tarfile.BLKTYPE)],
        [info("terminal", tarfile.CHRTYPE)],
        [info("/".join(["deep"] * 200))],
        [info("file"), info("file/below")],
        [info("missing", tarfile.LNKTYPE, "nowhere")],
    ],
    ids=lambda infos: infos[-1].name[:30] + "-" + infos[-1].linkname,
)
def test_what_leads_outside_or_is_no_file_is_refused(tmp_path: Path, infos: list[tarfile.TarInfo]) -> None:
    (tmp_path / "work").mkdir()
    archive = members(tmp_path / "work" / "model.tar.gz", *infos)
    assert_refused(archive, tmp_path / "work")
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_a_link_that_stays_inside_is_kept(tmp_path: Path) -> None:
    archive = members(
        tmp_path / "model.tar.gz",
        info("weights/model.bin"),
        info("model.bin", tarfile.SYMTYPE, "weights/model.bin"),
        info("same.bin", tarfile.LNKTYPE, "weights/model.bin"),
    )
    extract(archive, tmp_path / "model")
    assert (tmp_path / "model/model.bin").read_bytes() == b"data" == (tmp_path / "model/same.bin").read_bytes()


@pytest.mark.parametrize("content", [b"", b"no archive", gzip.compress(b"no tar in here" * 100), b"PK\x03\x04" * 300])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.tar.gz").write_bytes(content)
    assert_refused(tmp_path / "model.tar.gz", tmp_path, match="not a valid tar.gz")


def test_an_uncompressed_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w") as tar:
        tar.addfile(info("file"), io.BytesIO())
    assert_refused(tmp_path / "model.tar.gz", tmp_path, match="not a valid tar.gz")


@pytest.mark.parametrize("kind", ["member", "header", "padding"])
def test_a_bomb_is_refused(tmp_path: Path, kind: str) -> None:
    size = 100 * 2**20
    archive = tmp_path / "model.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as file:
        if kind != "padding":
            header = info("zeros", tarfile.REGTYPE if kind == "member" else tarfile.XHDTYPE)
            header.size = size
            file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
    assert_refused(archive, tmp_path, match="would unpack to more than")


def test_a_member_too_large_for_the_disk_is_refused_before_it_is_written(tmp_path: Path) -> None:
    header = info("huge")
    header.size = 2**60
    with gzip.open(tmp_path / "model.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
    assert_refused(tmp_path / "model.tar.gz", tmp_path, match="disk is full")


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk: the same call fails at the same place."""
    write_archive(tmp_path / "model.tar.gz", {"small": b"x", "large": random.Random(1).randbytes(300_000)})
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from shared.local_sagemaker.archives import ArchiveError, extract\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    extract(Path(sys.argv[1], 'model.tar.gz'), Path(sys.argv[1], 'model'))\n"
        "except ArchiveError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "disk is full" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["model.tar.gz"]


def test_special_bits_are_dropped(tmp_path: Path) -> None:
    member = info("program")
    member.mode = 0o6777
    extract(members(tmp_path / "model.tar.gz", member), tmp_path / "model")
    assert (tmp_path / "model/program").stat().st_mode & 0o7022 == 0
