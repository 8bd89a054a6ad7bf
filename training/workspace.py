"""The folder of one run: a step that ended leaves a marker with what it was made from, and is not redone."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from features.store import StoreUnavailable

HARDLY_ANY: Final = 8 << 20  # bytes
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class TrainingBusy(RuntimeError):
    """Another training is at work in the same home; says which process."""


class DiskFull(RuntimeError):
    """The disk took no more; says where, and that what was done so far is kept."""


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Errors of a full or read-only disk become DiskFull. Libraries lose the error number on the way: then a
    disk with hardly any room left is taken for the cause.
    """
    try:
        yield
    except StoreUnavailable:  # an OSError as well, but no disk's of ours
        raise
    except OSError as error:
        if error.errno not in _NO_ROOM and (error.errno is not None or _free(folder) > HARDLY_ANY):
            raise
        why = os.strerror(error.errno or errno.ENOSPC).lower()
        raise DiskFull(
            f"{folder}: {why} ({_free(folder) // 1024:,} KiB free). Make room, or name another --home, and "
            f"run again: steps that ended are kept"
        ) from error


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.exists() else 0


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Be the one training in `home`: two would take each other's folders away. Raises TrainingBusy.

    The kernel lets go of the lock when its holder ends, however it ends.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "train.lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            who = lock.read().strip() or "unknown"
            raise TrainingBusy(
                f"another training is at work in {home} (process {who}): wait for it, or name another --home"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def digest_of(*parts: object) -> str:
    """Sixteen hex digits of JSON-able parts (bytes as they are); order of mapping keys does not matter."""
    state = blake2b(digest_size=8)
    for part in parts:
        raw = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        state.update(len(raw).to_bytes(8, "little") + raw)
    return state.hexdigest()


class Workspace:
    """`root` is named after the digest of the run's inputs. Results appear under their step's name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def folder(self, step: str) -> Path:
        return self.root / step

    def done(self, step: str, key: str) -> Mapping[str, Any] | None:
        """What the step reported when it ended with this key; None when it must run."""
        try:
            said = json.loads(self._marker(step).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        result: Mapping[str, Any] | None = said["result"] if said.get("key") == key else None
        return result

    def last(self, step: str) -> Mapping[str, Any] | None:
        """What the step reported when it last ended, whatever its key was."""
        try:
            said: Mapping[str, Any] = json.loads(self._marker(step).read_text(encoding="utf-8"))["result"]
        except (OSError, ValueError, KeyError):
            return None
        return said

    def fresh(self, step: str) -> Path:
        """An empty folder for a step that begins: what a killed run left is removed."""
        self._marker(step).unlink(missing_ok=True)
        folder = self.folder(step)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def finish(self, step: str, key: str, result: Mapping[str, Any]) -> None:
        """Mark the step as done, in one rename."""
        draft = self._marker(step).with_suffix(".draft")
        text = json.dumps({"key": key, "result": result}, indent=1, sort_keys=True)
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(self._marker(step))

    def _marker(self, step: str) -> Path:
        return self.root / f"{step}.done.json"


def prune(root: Path, keep: int) -> None:
    """Remove all but the `keep` runs touched last."""
    if not root.exists():
        return
    runs = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in runs[:-keep] if keep else runs:
        shutil.rmtree(path)
