"""The parent of every container's processes. Run as a script, with the standard library only; imported by nobody.

    server ── pipe ──► launcher ──► init ──► the container's main process ──► whatever that starts

The launcher reads one line of JSON from its standard input (`Settings`), then keeps that pipe open: it is its link to
the server. When the line "stop" arrives it asks the container to end (SIGTERM, a grace period, SIGKILL). When the pipe
closes, the server is dead, even if by SIGKILL: the launcher kills every process of the container at once and removes
the folders it was told to. Its exit status is the container's: the main process's status, or 128 plus the signal's
number as in a shell.

With `pid_namespace`, "init" is process 1 of a namespace, so the kernel ends everything in it together with init.
Without, the launcher adopts orphans where the kernel lets it (Linux, PR_SET_CHILD_SUBREAPER), remembers its descendants
where not (macOS), and kills them one by one. With `mount_namespace`, the container sees its own folder as /opt/ml; the
host's /opt is left untouched.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CANNOT_START = 126
KILL_SECONDS = 10.0
LOOK_SECONDS = 1.0
LOOK_AGAIN_SECONDS = 0.02
ML_FOLDER = "/opt/ml"
HOSTS_FILE = "/etc/hosts"

on_linux = sys.platform == "linux"
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def prctl(option: int, value: int) -> None:
    check(libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    arguments = [text.encode() if text is not None else None for text in (source, target, kind)]
    check(libc.mount(*arguments, ctypes.c_ulong(flags), None), f"mount {target}")


def enter_namespaces(pid_namespace: bool, user_namespace: bool) -> None:
    """Make the next child the first of new namespaces; keep the user's own id inside."""
    flags = (CLONE_NEWPID if pid_namespace else 0) | (CLONE_NEWUSER if user_namespace else 0)
    uid, gid = os.geteuid(), os.getegid()
    if flags:
        check(libc.unshare(flags), "unshare")
    if user_namespace:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def mount_ml_folder(folder: str, staging: str) -> None:
    """Show `folder` as /opt/ml to this process and its children only.

    A host without /opt/ml gets nothing new: a temporary file system that holds the entries of the host's /opt, bound
    where they were, and `ml`, covers /opt. `staging` is an empty folder in which that is put together.
    """
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    if os.path.isdir(ML_FOLDER):
        mount(folder, ML_FOLDER, None, MS_BIND | MS_REC)
        return
    parent = os.path.realpath(os.path.dirname(ML_FOLDER))
    mount("tmpfs", staging, "tmpfs", MS_NOSUID | MS_NODEV)
    os.chmod(staging, 0o755)
    for entry in os.scandir(parent):
        target = os.path.join(staging, entry.name)
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), target)
            continue
        if entry.is_dir():
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
        mount(entry.path, target, None, MS_BIND | MS_REC)
    target = os.path.join(staging, os.path.basename(ML_FOLDER))
    os.mkdir(target)
    mount(folder, target, None, MS_BIND | MS_REC)
    mount(staging, parent, None, MS_BIND | MS_REC)


def mount_hosts_file(path: str) -> None:
    """Show `path` as /etc/hosts to this process and its children only."""
    try:
        mount(path, HOSTS_FILE, None, MS_BIND)
    except OSError as error:
        print(f"the names of the job's hosts are not known in this container: {error}", file=sys.stderr, flush=True)


def shell_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def run_init(settings: dict) -> int:
    """Be the container's init: set up what it sees, start its main process, reap, return the main process's status."""
    if on_linux:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if settings["mount_namespace"]:
        mount_ml_folder(settings["ml_folder"], settings["staging_folder"])
        if settings["hosts_file"]:
            mount_hosts_file(settings["hosts_file"])
    if settings["pid_namespace"]:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)

    main = 0
    asked_to_end = False

    def end(*_) -> None:
        nonlocal asked_to_end
        asked_to_end = True
        if main:
            signal_group(main, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    main = os.fork()
    if main == 0:
        run_main(settings)
    if asked_to_end:
        signal_group(main, signal.SIGTERM)
    while True:
        pid, status = os.wait()
        if pid == main:
            if asked_to_end and settings["await_group"]:
                await_group(main)
            return shell_status(status)


def await_group(leader: int) -> None:
    """Wait for the rest of a process group whose leader has ended: a shell dies of the signal at once, what it has
    started may still be at what the signal asks of it. The launcher's patience is the limit."""
    while True:
        reap()
        try:
            os.killpg(leader, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(LOOK_AGAIN_SECONDS)


def signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        # Not yet the leader of a group of its own, or gone already.
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


def run_main(settings: dict) -> None:
    """Become the container's main process; never returns."""
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if on_linux:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.chdir(settings["working_folder"])
        os.execvp(settings["argv"][0], settings["argv"])
    except OSError as error:
        print(f"cannot start {settings['argv'][0]}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(CANNOT_START)


def process_table() -> dict[int, tuple[int, str]]:
    """Parent and time of start of every process; both together with the id tell a process from a later one."""
    table: dict[int, tuple[int, str]] = {}
    if on_linux:
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat") as file:
                        fields = file.read().rpartition(")")[2].split()
                except OSError:
                    continue  # It ended while we looked.
                table[int(name)] = (int(fields[1]), fields[19])
    else:
        with subprocess.Popen(["ps", "-axo", "pid=,ppid=,lstart="], stdout=subprocess.PIPE, text=True) as listing:
            for line in listing.stdout:
                pid, parent, start = line.split(None, 2)
                table[int(pid)] = (int(parent), start)
        table.pop(listing.pid, None)
    return table


class Descendants:
    """The processes that this one has seen come from it, also those whose parents have ended since."""

    def __init__(self) -> None:
        self._seen: dict[int, str] = {}

    def living(self) -> list[int]:
        """Look again; ids of those that still exist."""
        table = process_table()
        children: dict[int, list[int]] = {}
        for pid, (parent, _) in table.items():
            children.setdefault(parent, []).append(pid)
        waiting = [os.getpid(), *(pid for pid, start in self._seen.items() if table.get(pid, (0, ""))[1] == start)]
        while waiting:
            for pid in children.get(waiting.pop(), []):
                if self._seen.get(pid) != table[pid][1]:
                    self._seen[pid] = table[pid][1]
                    waiting.append(pid)
        return [pid for pid, start in self._seen.items() if table.get(pid, (0, ""))[1] == start]


def kill_namespace(init: int) -> None:
    """End a container whose init is the first process of a namespace.

    The kernel ends everything in it together with init, and lets us collect init only when all are gone.
    """
    try:
        os.kill(init, signal.SIGKILL)
    except ProcessLookupError:
        return
    reap(block=True)


def kill_descendants(descendants: Descendants) -> None:
    """End every process that came from this one, and collect those that are its own children."""
    give_up = time.monotonic() + KILL_SECONDS
    while (living := descendants.living()) and time.monotonic() < give_up:
        for pid in living:
            try:
                # The group first: once its leader has been collected, the group's number may be someone else's.
                if os.getpgid(pid) == pid:
                    os.killpg(pid, signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        reap()
        time.sleep(0.005)


def reap(block: bool = False) -> dict[int, int]:
    """Collect ended children; with `block`, until there is none."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, 0 if block else os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def supervise(init: int, settings: dict, wakeup: int) -> int:
    """Wait until the container has ended by itself, was asked to end, or the server is gone; leave no process."""
    descendants = Descendants()
    try:
        status = wait_for_end(init, settings, wakeup, descendants)
    finally:
        if settings["pid_namespace"]:
            kill_namespace(init)
        else:
            kill_descendants(descendants)
    if status is not None:
        return status
    for folder in settings["remove_when_server_dies"]:
        shutil.rmtree(folder, ignore_errors=True)
    return 128 + signal.SIGKILL


def wait_for_end(init: int, settings: dict, wakeup: int, descendants: Descendants) -> int | None:
    """The container's exit status; None when the server has closed its end of the pipe."""
    deadline = None
    server = sys.stdin.fileno()
    # Where nobody adopts orphans, they are known only if seen while their parents lived.
    pause = None if on_linux else LOOK_SECONDS
    while True:
        timeout = pause if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([server, wakeup], [], [], timeout)
        if not on_linux:
            descendants.living()
        if wakeup in ready:
            signals = os.read(wakeup, 4096)
            ended = reap()
            if init in ended:
                return shell_status(ended[init])
            if signal.SIGTERM in signals:
                return 128 + signal.SIGTERM
        if server in ready:
            if not os.read(server, 4096):
                return None
            if deadline is None:
                deadline = time.monotonic() + settings["grace_seconds"]
                os.kill(init, signal.SIGTERM)
        if deadline is not None and time.monotonic() >= deadline:
            return 128 + signal.SIGKILL


def read_settings() -> dict:
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            sys.exit(CANNOT_START)
        line += piece
    return json.loads(line)


def main() -> int:
    settings = read_settings()
    wakeup, write_end = os.pipe()
    os.set_blocking(write_end, False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    if on_linux:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    enter_namespaces(settings["pid_namespace"], settings["user_namespace"])
    init = os.fork()
    if init == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        status = CANNOT_START
        try:
            status = run_init(settings)
        except OSError as error:
            print(f"cannot set up the container: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return supervise(init, settings, wakeup)


if __name__ == "__main__":
    sys.exit(main())
