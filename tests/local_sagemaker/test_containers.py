"""Containers: what their processes see, say and leave behind, in each kind of isolation that this machine has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hosting_harness import PATIENCE_SECONDS, processes_of, wait_until
from hypothesis import given
from hypothesis import strategies as st

from shared.local_sagemaker import isolation as isolations
from shared.local_sagemaker.containers import MAX_LINE_CHARACTERS, Container, split_lines
from shared.local_sagemaker.isolation import NONE, available_isolation

CHECKOUT = Path(__file__).parents[2]
KINDS = [NONE] + [kind for kind in isolations.CANDIDATES if sys.platform == "linux" and isolations._works(kind)]
each_isolation = pytest.mark.parametrize(
    "isolation",
    KINDS,
    ids=lambda kind: "+".join(name for name, on in vars(kind).items() if on) or "none",
)

# Leaves a daemon that is no child, in no group and no session of its container.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.wait()
print("daemon runs", flush=True)
"""


class Running:
    """A container with a log and a marker in the environment of all its processes."""

    def __init__(self, folder: Path, argv: list[str], **options: object) -> None:
        self.marker = uuid.uuid4().hex
        self.lines: list[str] = []
        self.container = Container(
            argv,
            root=folder / "root",
            environment={"MARKER": self.marker, "PATH": os.environ["PATH"], **options.pop("environment", {})},
            log=self.lines.append,
            **options,
        )

    @property
    def processes(self) -> list[int]:
        return processes_of(self.marker)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*argv: str, **options: object) -> Running:
        started.append(Running(tmp_path, list(argv), **options))
        started[-1].container.start()
        return started[-1]

    yield start
    for running in started:
        running.container.stop(0)
        assert running.processes == []


def python(program: str) -> tuple[str, str, str]:
    return sys.executable, "-c", program


@each_isolation
def test_files_in_opt_ml_are_read_and_written(run, tmp_path, isolation) -> None:
    (tmp_path / "root/ml/input").mkdir(parents=True)
    (tmp_path / "root/ml/input/data.txt").write_text("hello\n")
    existed = os.path.exists("/opt/ml")
    running = run(
        "sh", "-c", "cp /opt/ml/input/data.txt $TARGET && cat $TARGET", environment={"TARGET": "/opt/ml/copy.txt"},
        isolation=isolation,
    )  # fmt: skip
    assert running.container.wait(PATIENCE_SECONDS) == 0
    assert running.lines == ["hello"]
    assert (tmp_path / "root/ml/copy.txt").read_text() == "hello\n"
    assert os.path.exists("/opt/ml") == existed


@each_isolation
def test_scripts_with_literal_paths_are_relocated(run, tmp_path, isolation) -> None:
    code = tmp_path / "root/ml/code"
    code.mkdir(parents=True)
    script = "import os; print(sorted(os.listdir('/opt/ml'))); print('/opt/mlflow')\n"
    (code / "script.py").write_text(script)
    (code / "weights.bin").write_bytes(b"\xff/opt/ml")
    running = Running(tmp_path, [sys.executable, "/opt/ml/code/script.py"], isolation=isolation)
    running.container.relocate(code)
    running.container.start()
    assert running.container.wait(PATIENCE_SECONDS) == 0
    assert running.lines == ["['code']", "/opt/mlflow"]
    assert (code / "weights.bin").read_bytes() == b"\xff/opt/ml"
    assert ((code / "script.py").read_text() == script) == isolation.mount_namespace


@pytest.mark.skipif(not available_isolation().mount_namespace, reason="this machine grants no mount namespaces")
def test_the_rest_of_opt_is_there_as_on_the_host(run, tmp_path) -> None:
    running = run(*python("import os; print(sorted(os.listdir('/opt')))"))
    assert running.container.wait(PATIENCE_SECONDS) == 0
    assert running.lines == [str(sorted({*os.listdir("/opt"), "ml"}))]


@each_isolation
@pytest.mark.parametrize(
    ("command", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -SEGV $$", 139), ("exec no-such-program", 127)],
)
def test_the_exit_status_is_the_main_process_s(run, isolation, command, status) -> None:
    assert run("sh", "-c", command, isolation=isolation).container.wait(PATIENCE_SECONDS) == status


@each_isolation
def test_a_program_that_does_not_exist_says_so(run, isolation) -> None:
    running = run("no-such-program", isolation=isolation)
    assert running.container.wait(PATIENCE_SECONDS) == 126
    assert "cannot start no-such-program" in running.lines[-1]


@each_isolation
def test_output_comes_line_by_line_and_in_order(run, isolation) -> None:
    running = run(
        *python(
            "import sys\n"
            "print('one', flush=True); print('two', file=sys.stderr, flush=True)\n"
            "sys.stdout.buffer.write(b'bad \\xff byte\\n')\n"
            f"print('x' * {MAX_LINE_CHARACTERS + 5})\n"
            "print('10%\\r20%\\r', end='')\n"
            "print()\n"
            "print('no end', end='')\n"
        ),
        isolation=isolation,
    )
    assert running.container.wait(PATIENCE_SECONDS) == 0
    expected = ["one", "two", "bad \ufffd byte", "x" * MAX_LINE_CHARACTERS, "xxxxx", "10%", "20%", "no end"]
    assert running.lines == expected


def test_a_line_is_logged_when_it_is_written(run) -> None:
    running = run("sh", "-c", "echo first; sleep 600")
    wait_until(lambda: running.lines == ["first"], "the first line")
    assert running.container.exit_status is None


@each_isolation
def test_standard_input_is_empty(run, isolation) -> None:
    assert run("sh", "-c", "cat; exit 3", isolation=isolation).container.wait(PATIENCE_SECONDS) == 3


@each_isolation
def test_nothing_outlives_the_main_process(run, isolation) -> None:
    if isolation == NONE and sys.platform != "linux":
        pytest.skip("without Linux's subreaper a daemon is out of reach")
    running = run(*python(DAEMON), isolation=isolation)
    assert running.container.wait(PATIENCE_SECONDS) == 0
    assert running.lines == ["daemon runs"]
    assert running.processes == []


@each_isolation
def test_stop_ends_daemons_too_and_may_be_repeated(run, isolation) -> None:
    if isolation == NONE and sys.platform != "linux":
        pytest.skip("without Linux's subreaper a daemon is out of reach")
    running = run(*python(DAEMON + "time.sleep(600)"), isolation=isolation)
    wait_until(lambda: running.lines == ["daemon runs"], "the daemon")
    assert len(running.processes) >= 2
    running.container.stop()
    assert running.processes == []
    assert running.container.exit_status == 128 + signal.SIGTERM
    running.container.stop()


@each_isolation
def test_stop_lets_a_process_end_in_order(run, isolation) -> None:
    running = run("sh", "-c", "trap 'echo saved; exit 4' TERM; echo ready; while :; do sleep 0.05; done",
                  isolation=isolation)  # fmt: skip
    wait_until(lambda: running.lines == ["ready"], "the trap")
    running.container.stop()
    assert running.lines[-1] == "saved"
    assert running.container.exit_status == 4


@each_isolation
def test_stop_kills_a_process_that_will_not_end(run, isolation) -> None:
    running = run("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done", isolation=isolation,
                  grace_seconds=0.2)  # fmt: skip
    wait_until(lambda: running.lines == ["ready"], "the trap")
    running.container.stop()
    assert running.processes == []
    assert running.container.exit_status == 128 + signal.SIGKILL


def test_stop_from_many_threads_at_once(run) -> None:
    running = run("sleep", "600")
    threads = [threading.Thread(target=running.container.stop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert running.container.exit_status is not None


def test_kills_from_many_threads_at_once_meet_a_pipe_that_one_of_them_closed(run) -> None:
    failures: list[BaseException] = []

    def kill(container: Container, begin: threading.Barrier) -> None:
        begin.wait()
        try:
            container.stop(0)
        except BaseException as error:
            failures.append(error)

    for _ in range(5):
        running = run("sleep", "600")
        begin = threading.Barrier(8)
        threads = [threading.Thread(target=kill, args=(running.container, begin)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert running.container.wait(PATIENCE_SECONDS) is not None
    assert failures == []


def test_a_container_stopped_before_it_started_does_not_start(tmp_path) -> None:
    running = Running(tmp_path, ["sleep", "600"])
    running.container.stop()
    running.container.start()
    assert running.container.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
    assert running.processes == []


@each_isolation
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_dies_takes_its_containers_along(tmp_path, isolation, how) -> None:
    if isolation == NONE and sys.platform != "linux":
        pytest.skip("without Linux's subreaper a daemon is out of reach")
    marker = uuid.uuid4().hex
    folder = tmp_path / "removed"
    program = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from shared.local_sagemaker.containers import Container\n"
        "from shared.local_sagemaker.isolation import Isolation\n"
        f"container = Container([sys.executable, '-c', {DAEMON + 'time.sleep(600)'!r}], root=Path({str(folder)!r}),\n"
        f"    environment={{'MARKER': {marker!r}}}, log=lambda line: print(line, flush=True),\n"
        f"    isolation={isolation!r}, remove_when_server_dies=[Path({str(folder)!r})])\n"
        "container.start()\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=CHECKOUT) as server:
        assert server.stdout.readline() == b"daemon runs\n"
        assert len(processes_of(marker)) >= 3
        server.send_signal(how)
        server.wait(PATIENCE_SECONDS)
    wait_until(lambda: not processes_of(marker), "the end of all processes")
    wait_until(lambda: not folder.exists(), "the folder's removal")


@pytest.mark.skipif(not available_isolation().pid_namespace, reason="this machine grants no process namespaces")
def test_a_launcher_that_is_killed_takes_its_container_along(run) -> None:
    running = run(*python(DAEMON + "time.sleep(600)"))
    wait_until(lambda: running.lines == ["daemon runs"], "the daemon")
    launcher = next(pid for pid in running.processes if psutil.Process(pid).ppid() == os.getpid())
    os.kill(launcher, signal.SIGKILL)
    assert running.container.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    wait_until(lambda: not running.processes, "the end of all processes")


def test_the_probe_reports_no_isolation_where_the_kernel_refuses(tmp_path) -> None:
    """Here every attempt fails; containers run all the same (see the tests with isolation "none")."""
    program = (
        "import resource, sys\n"
        "from shared.local_sagemaker import isolation\n"
        "isolation.LAUNCHER_COMMAND[:] = ['false']\n"
        "print(isolation.available_isolation() == isolation.NONE)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert run.stdout == "True\n"


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_lines_do_not_depend_on_how_the_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    assert list(split_lines(pieces)) == list(split_lines([data]))


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), max_size=10))
def test_every_line_comes_out(lines: list[str]) -> None:
    assert list(split_lines(["".join(f"{line}\n" for line in lines).encode()])) == lines
