"""Nearest items by inner product, one FAISS index per item kind: flat while small, IVF above.

Flat indexes are rebuilt from the vectors at load (a copy, milliseconds); IVF files are memory-mapped.
Built, and its recall measured, by `training.index`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from serving.domain import NOTHING, Proposal, Rows

FLAT_UP_TO = 20_000  # measured: exact search of 20k vectors costs about 0.3 ms; IVF pays above that


@dataclass(frozen=True, slots=True)
class KindIndex:
    """The index of one kind: `rows[i]` is the item row of FAISS id i. `nprobe` 0 means exact (flat)."""

    rows: Rows
    faiss_index: Any
    nprobe: int = 0

    @property
    def exact(self) -> bool:
        return self.nprobe == 0

    def search(self, vector: NDArray[np.float32], k: int) -> Proposal:
        """At most `k` rows, best first."""
        k = min(k, len(self.rows))
        if k <= 0:
            return NOTHING
        scores, found = self.faiss_index.search(np.ascontiguousarray(vector[None, :], np.float32), k)
        kept = found[0] >= 0  # IVF answers -1 where its probed lists held fewer than k
        return Proposal(self.rows[found[0][kept]], scores[0][kept])


@dataclass(frozen=True, slots=True)
class ItemIndex:
    """One `KindIndex` per kind; None where the kind has no item with a vector."""

    kinds: tuple[KindIndex | None, ...]

    def search(self, vector: NDArray[np.float32], k: int, kind: int) -> Proposal:
        index = self.kinds[kind]
        return NOTHING if index is None else index.search(vector, k)

    def save(self, folder: Path) -> None:
        """`index.json`, and a `.rows.npy` per kind; a `.faiss` file for those that are not flat."""
        folder.mkdir(parents=True, exist_ok=True)
        spec: dict[str, dict[str, int]] = {}
        for name, index in zip(KINDS, self.kinds, strict=True):
            if index is None:
                continue
            spec[name] = {"nprobe": index.nprobe, "size": len(index.rows)}
            np.save(folder / f"{name}.rows.npy", index.rows, allow_pickle=False)
            if not index.exact:
                faiss.write_index(index.faiss_index, str(folder / f"{name}.faiss"))
        (folder / "index.json").write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path, vectors: NDArray[np.float32]) -> ItemIndex:
        """`vectors` (n_items, d) are those that the index was built from."""
        spec = json.loads((folder / "index.json").read_text())
        return cls(tuple(_load_kind(folder, name, spec.get(name), vectors) for name in KINDS))

    @classmethod
    def flat(cls, vectors: NDArray[np.float32], rows_by_kind: Sequence[Rows]) -> ItemIndex:
        """Exact indexes of the given rows: for evaluation, tests and small catalogues."""
        return cls(tuple(flat_kind(vectors, rows) if len(rows) else None for rows in rows_by_kind))


def flat_kind(vectors: NDArray[np.float32], rows: Rows) -> KindIndex:
    """An exact inner-product index of `vectors[rows]`."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors[rows], np.float32))
    return KindIndex(rows, index)


def _load_kind(
    folder: Path, name: str, spec: dict[str, int] | None, vectors: NDArray[np.float32]
) -> KindIndex | None:
    if spec is None:
        return None
    rows: Rows = np.load(folder / f"{name}.rows.npy", allow_pickle=False)
    if spec["nprobe"] == 0:
        return flat_kind(vectors, rows)
    flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
    index: Any = faiss.read_index(str(folder / f"{name}.faiss"), flags)
    index.nprobe = spec["nprobe"]
    return KindIndex(rows, index, spec["nprobe"])
