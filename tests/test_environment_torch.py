"""Which torch is installed: the choice by fakes of the machine, the probes by real processes."""

import subprocess
import sys
import venv
from dataclasses import dataclass

import pytest

from shared.environment import pip_configuration, torch_source
from shared.environment.specification import CPU_WHEELS, satisfies
from shared.environment.torch_source import BaseTorch, LinkedTorch, TorchWheel
from tests.environment_support import TORCH_VERSION, make_python_with_torch, site_packages

VERSION, ACCEPTED = "2.13.0", ">=2.6,<3"


@dataclass
class FakeMachine:
    system: str = "Linux"
    gpu: bool = False
    torch: BaseTorch | None = None
    cpu_wheel_at: tuple[str | None, ...] = ()

    def has_nvidia_gpu(self):
        return self.gpu

    def base_torch(self):
        return self.torch

    def pip_finds(self, requirement, index):
        return requirement == "torch==2.13.0+cpu" and index in self.cpu_wheel_at


def _choose(**machine):
    return list(torch_source.candidates(FakeMachine(**machine), VERSION, ACCEPTED))


def test_the_base_pythons_torch_comes_first_and_needs_no_download():
    torch = BaseTorch("2.8.0+cpu", None, ())
    first, second = _choose(torch=torch, cpu_wheel_at=(None,))
    assert isinstance(first, LinkedTorch) and first.torch is torch
    assert second.requirement == "torch==2.13.0+cpu"  # in case that one cannot be used


@pytest.mark.parametrize("version", ["2.5.1", "1.13.1+cu117", "3.0.0"])
def test_a_base_torch_out_of_range_is_not_used(version):
    assert not any(isinstance(source, LinkedTorch) for source in _choose(torch=BaseTorch(version, None, ())))


def test_a_gpu_wants_a_build_that_can_use_it():
    (source,) = _choose(gpu=True, torch=BaseTorch("2.13.0+cpu", None, ()), cpu_wheel_at=(None, CPU_WHEELS))
    assert (source.requirement, source.index) == ("torch==2.13.0", None)
    assert isinstance(_choose(gpu=True, torch=BaseTorch("2.9.0+cu128", "12.8", ()))[0], LinkedTorch)


def test_without_a_gpu_pips_own_configuration_comes_before_pytorchs_index():
    (source,) = _choose(cpu_wheel_at=(None, CPU_WHEELS))
    assert (source.requirement, source.index, source.by_pip) == ("torch==2.13.0+cpu", None, True)
    (source,) = _choose(cpu_wheel_at=(CPU_WHEELS,))
    assert (source.requirement, source.index, source.by_pip) == ("torch==2.13.0+cpu", CPU_WHEELS, True)


def test_the_cuda_build_is_the_last_resort_and_is_announced():
    (source,) = _choose()
    assert isinstance(source, TorchWheel) and source.requirement == "torch==2.13.0"
    assert "several GB" in source.announcement and "PIP_FIND_LINKS" in source.announcement


def test_on_macos_the_plain_wheel_is_the_cpu_build():
    (source,) = _choose(system="Darwin")
    assert source.requirement == "torch==2.13.0" and "CUDA" not in source.announcement


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("2.6.0", True), ("2.6", True), ("2.13.0+cpu", True), ("2.10.0a0+git1", True), ("2.5.9", False), ("3.0", False)],
)
def test_version_ranges(version, accepted):
    assert satisfies(version, ACCEPTED) is accepted


def test_an_operator_that_ranges_do_not_know_is_refused():
    with pytest.raises(ValueError, match="unsupported bound"):
        satisfies("2.6.0", "~=2.6")


def test_a_base_torch_is_described_linked_and_imported(tmp_path):
    base_python = make_python_with_torch(tmp_path / "base")
    torch = torch_source.ThisMachine(str(base_python), []).base_torch()
    assert (torch.version, torch.cuda) == (TORCH_VERSION, "12.8")

    venv.create(tmp_path / "new", with_pip=False)
    packages = site_packages(tmp_path / "new")
    torch_source.link(torch, packages)
    torch_source.link(torch, packages)
    names = {path.name for path in packages.iterdir()}
    assert {"torch", "torchgen", "torch-2.8.0.dist-info", "nvidia"} <= names
    assert "unrelated" not in names
    code = "import importlib.metadata as m, torch; print(torch.__version__, m.version('torch'))"
    run = subprocess.run([tmp_path / "new/bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [TORCH_VERSION, "2.8.0"]

    torch_source.unlink(torch, packages)
    assert not (packages / "torch").is_symlink()
    assert (site_packages(tmp_path / "base") / "torch" / "__init__.py").exists()


def test_a_python_without_torch_has_none(tmp_path):
    venv.create(tmp_path / "empty", with_pip=False)
    assert torch_source.ThisMachine(str(tmp_path / "empty/bin/python"), []).base_torch() is None


def test_pip_is_asked_for_a_wheel_without_downloading_it(tmp_path, monkeypatch):
    """The wheel is no wheel at all, so pip would fail if it opened it."""
    (tmp_path / "torch-2.13.0+cpu-py3-none-any.whl").write_bytes(b"")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    machine = torch_source.ThisMachine(sys.executable, [sys.executable, "-m", "pip"])
    assert machine.pip_finds("torch==2.13.0+cpu", None)
    assert not machine.pip_finds("torch==2.13.0", None)
    assert not machine.pip_finds("torch==2.13.0+cp", None)
    assert not machine.pip_finds("torchvision==2.13.0+cpu", None)


def test_nvidias_driver_is_asked_for_gpus(tmp_path, monkeypatch):
    machine = torch_source.ThisMachine(sys.executable, [])
    command = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not machine.has_nvidia_gpu()
    command.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-0)'\n")
    command.chmod(0o755)
    assert machine.has_nvidia_gpu()
    command.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    assert not machine.has_nvidia_gpu()


def test_pips_settings_reach_uv(tmp_path, monkeypatch):
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nindex-url = https://mirror.example/simple\nextra-index-url =\n  https://a.example\n  https://b.example\n"
        "cert = /certificates.pem\n[install]\nfind-links = /wheels /more\n[freeze]\ntimeout = 10\n"
    )
    for name in ("PIP_FIND_LINKS", "PIP_CERT", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = pip_configuration.settings([sys.executable, "-m", "pip"])
    variables = pip_configuration.for_uv(settings, {})
    assert variables["UV_INDEX_URL"] == "https://mirror.example/simple"
    assert variables["UV_EXTRA_INDEX_URL"] == "https://a.example https://b.example"
    assert variables["UV_FIND_LINKS"] == "/wheels,/more"
    assert variables["SSL_CERT_FILE"] == "/certificates.pem"


def test_what_the_user_set_for_uv_stays():
    settings = {"index-url": "https://mirror.example/simple", "find-links": "/wheels"}
    variables = pip_configuration.for_uv(settings, {"UV_DEFAULT_INDEX": "https://own.example", "UV_FIND_LINKS": "/own"})
    assert variables == {}
