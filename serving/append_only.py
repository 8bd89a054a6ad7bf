"""Numbered objects that are written once, on any fsspec URL: what an audit log and its order stand on.

    {folder}/{block:06d}/{number:010d}.json    object `number`, from 1; a block holds BLOCK of them
    {folder}/{block:06d}.jsonl                 a full block's objects, one a line: only for faster reading

Writing number n fails when n is there, so of two writers one wins and the other looks again: compare and
set without a lock that somebody could leave behind. On a local disk the object is written aside and linked
to its name, which the kernel does for one writer only; object stores are asked to create, not to replace
(S3 `If-None-Match: *`, GCS `ifGenerationMatch=0`). A store that ignores that condition gives no guarantee
beyond one writer at a time.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

BLOCK: Final = 500


class Files:
    """The folder `folder` below an fsspec URL: whole objects only. Raises OSError when the store is away."""

    def __init__(self, url: str, folder: str) -> None:
        self._files, root = fsspec.core.url_to_fs(url)
        self._root = f"{str(root).rstrip('/')}/{folder}"
        self._local = isinstance(self._files, LocalFileSystem)

    def read(self, name: str) -> bytes | None:
        """None when there is none."""
        try:
            found: bytes = self._files.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        return found

    def create(self, name: str, content: bytes) -> bool:
        """False when it is there already, whatever it holds. Readers never see half of it."""
        path = self._path(name)
        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        try:
            if self._local:
                self._link(path, content)
            else:
                self._files.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Nothing happens when there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def replace(self, name: str, content: bytes) -> None:
        """In one step, last writer wins. Local files are readable by their owner only."""
        path = self._path(name)
        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if not self._local:
            self._files.pipe_file(path, content)
            return
        Path(self._draft(path, content)).replace(path)

    def numbers(self, folder: str) -> list[int]:
        """The numbers that name entries of a folder, ascending."""
        try:
            entries: list[Any] = self._files.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        stems = (str(entry).rstrip("/").rsplit("/", 1)[1].partition(".") for entry in entries)
        return sorted(int(stem) for stem, _, kind in stems if stem.isdecimal() and kind in ("", "json"))

    def refresh(self) -> None:
        """Forget listings that fsspec keeps: others write here too."""
        self._files.invalidate_cache()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _link(self, path: str, content: bytes) -> None:
        draft = self._draft(path, content)
        try:
            os.link(draft, path)
        finally:
            Path(draft).unlink()
        self._settle(Path(path).parent)

    @staticmethod
    def _draft(path: str, content: bytes) -> str:
        handle, draft = tempfile.mkstemp(dir=Path(path).parent, prefix=".draft-")  # mode 0600
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        return draft

    @staticmethod
    def _settle(folder: Path) -> None:
        """The name itself is on the disk too, so that what was acknowledged survives a power cut."""
        with contextlib.suppress(OSError):  # not every file system opens folders
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


class AppendOnly:
    """`url`: the registry's. Numbers are dense: n is there only when n - 1 is."""

    def __init__(self, url: str, folder: str, block: int = BLOCK) -> None:
        self._files, self._block = Files(url, folder), block

    def create(self, number: int, line: bytes) -> bool:
        """Write object `number` (one line without its end); False when somebody else has."""
        made = self._files.create(self._name(number), line + b"\n")
        if made and number % self._block == 0:
            self.seal(self._block_of(number))
        return made

    def read(self, number: int) -> bytes | None:
        """The object's bytes as they lie there."""
        return self._files.read(self._name(number))

    def since(self, number: int) -> list[bytes]:
        """The objects after `number`, to the last: in order, whole blocks from their joined file."""
        found: list[bytes] = []
        at = number + 1
        while True:
            lines = self._sealed(self._block_of(at)) if at % self._block == 1 or self._block == 1 else None
            if lines is not None:
                found += lines
                at += self._block
                continue
            raw = self.read(at)
            if raw is None:
                return found
            found.append(raw)
            at += 1

    def last(self) -> int:
        """The greatest number there is; 0 for none."""
        self._files.refresh()
        for block in reversed(self._files.numbers("")):
            if numbers := self._files.numbers(f"{block:06d}"):
                return numbers[-1]
        return 0

    def seal(self, block: int) -> None:
        """Join a full block; harmless when it was, or is not full."""
        first = block * self._block + 1
        lines = [self.read(number) for number in range(first, first + self._block)]
        whole = [line for line in lines if line is not None]
        if len(whole) == self._block:
            self._files.create(f"{block:06d}.jsonl", b"".join(whole))

    def sealed(self) -> dict[int, list[bytes]]:
        """What the joined files say, by the number of their first object."""
        last = self.last()
        blocks = {block: self._sealed(block) for block in range(self._block_of(last) + 1)} if last else {}
        return {block * self._block + 1: lines for block, lines in blocks.items() if lines is not None}

    def _sealed(self, block: int) -> list[bytes] | None:
        raw = self._files.read(f"{block:06d}.jsonl")
        lines = None if raw is None else raw.splitlines(keepends=True)
        return lines if lines is not None and len(lines) == self._block else None

    def _block_of(self, number: int) -> int:
        return (number - 1) // self._block

    def _name(self, number: int) -> str:
        return f"{self._block_of(number):06d}/{number:010d}.json"
