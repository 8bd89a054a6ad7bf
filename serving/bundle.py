"""The bundle: one immutable, versioned output of training, and its form on disk.

    manifest.json       version, format, provenance, and the SHA-256 of every other file
    ids.txt             item ids, one a line: the order of all rows
    items/*.npy         ITEM columns, known bits, layouts, texts
    stats.npy           ITEM_STATS of every item at training time
    model/ popular/ neighbours/ blend.json schemas.json golden.json
    uplift.json         what benefits add, where it was measured; may be missing
    ranker/             the second stage, where enough was displayed; may be missing

Arrays are plain `.npy`, memory-mapped. Nothing in a bundle is about any single customer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS, Vocabulary
from features.schema import SchemaMismatch, Schemas
from features.transforms import EventWeights
from features.views import ITEM, ITEM_STATS
from serving.blend import Blend
from serving.catalogue import CompiledItems
from serving.models import Neighbours, Popular, load_model
from serving.ranker import FILE as RANKER_FILE
from serving.ranker import Ranker
from serving.taste import ServedModel
from serving.texts import Texts
from serving.uplift import FILE as UPLIFT_FILE
from serving.uplift import Uplift

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"

__all__ = ["Blend", "Bundle", "BundleError", "Neighbours", "Popular", "ServedModel", "load", "save"]


class BundleError(ValueError):
    """A bundle that cannot be used; names the file and what to do."""

    def __init__(self, file: str | Path, problem: str, remedy: str = "publish it again") -> None:
        super().__init__(f"bundle, {file}: {problem}; {remedy}")
        self.file, self.problem, self.remedy = str(file), problem, remedy


@dataclass(frozen=True, eq=False)
class Bundle:
    """Row i of everything is item `items.ids[i]`. Raises BundleError when the parts disagree in length."""

    version: str
    manifest: Mapping[str, Any]  # provenance: seed, data, metrics, model choice, event_weights …
    items: Vocabulary
    compiled: CompiledItems
    stats: NDArray[np.void]  # (n,) ITEM_STATS.dtype
    model: ServedModel
    popular: Popular
    neighbours: Neighbours
    blend: Blend
    schemas: Schemas
    golden: tuple[Mapping[str, Any], ...] = ()  # made-up queries with what they must give
    uplift: Uplift | None = None  # None: not measured
    ranker: Ranker | None = None  # None: candidates are ranked by the blend

    def __post_init__(self) -> None:
        n = len(self.items)
        lengths = {
            "items/table.npy": len(self.compiled.table),
            "items/texts.npy": len(self.compiled.texts),
            "stats.npy": len(self.stats),
            "model": self.model.n_items,
            "popular": self.popular.n_items,
            "neighbours": self.neighbours.n_items,
        }
        if self.ranker is not None:
            lengths["ranker"] = len(self.ranker)
        for part, length in lengths.items():
            if length != n:
                raise BundleError(part, f"describes {length} items, ids.txt {n}", "publish parts of one fit")

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def weights(self) -> EventWeights:
        """What training weighed events by; the history is built with the same."""
        return EventWeights(**self.manifest.get("event_weights", {}))

    @property
    def trained_until(self) -> float:
        """POSIX seconds of the last event it learned from; without end where the manifest does not say."""
        return float(self.manifest.get("trained_until", math.inf))

    def kind_counts(self) -> dict[str, int]:
        counts = np.bincount(self.compiled.table["kind"], minlength=len(KINDS))
        return {kind: int(count) for kind, count in zip(KINDS, counts.tolist(), strict=False)}


def save(bundle: Bundle, folder: str | Path) -> Path:
    """Write a bundle into a new or empty folder; the manifest, last, makes it whole."""
    root = Path(folder)
    if root.exists() and any(root.iterdir()):
        raise BundleError(root, "the folder is not empty", "name a new folder")
    (root / "items").mkdir(parents=True)
    (root / "ids.txt").write_text("".join(f"{name}\n" for name in bundle.items.ids), encoding="utf-8")
    texts = bundle.compiled.texts
    arrays = {
        "items/table": bundle.compiled.table,
        "items/known": bundle.compiled.known,
        "items/layouts": bundle.compiled.layouts,
        "items/texts": texts.blob,
        "items/offsets": texts.offsets,
        "stats": bundle.stats,
    }
    for name, array in arrays.items():
        np.save(root / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
    for name in ("model", "popular", "neighbours"):
        (root / name).mkdir()
        getattr(bundle, name).save(root / name)
    bundle.blend.save(root)
    if bundle.uplift is not None:
        bundle.uplift.save(root)
    if bundle.ranker is not None:
        bundle.ranker.save(root)
    (root / "schemas.json").write_text(bundle.schemas.to_json(), encoding="utf-8")
    (root / "golden.json").write_text(_json(list(bundle.golden)), encoding="utf-8")
    manifest = {**bundle.manifest, "version": bundle.version, "format": FORMAT, "files": digests(root)}
    (root / MANIFEST).write_text(_json(manifest), encoding="utf-8")
    return root


def load(folder: str | Path, verify: bool = True) -> Bundle:
    """The bundle in a folder, memory-mapped. `verify` compares every file's digest with the manifest's.

    Raises BundleError.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    if verify:
        check_files(root, manifest)
    try:
        return _assemble(root, manifest)
    except BundleError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SchemaMismatch) as error:
        raise BundleError(root, f"cannot be read: {error}") from error


def read_manifest(root: Path) -> dict[str, Any]:
    """Raises BundleError."""
    path = root / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(path, f"is missing or cannot be read ({error})") from error
    except ValueError as error:
        raise BundleError(path, f"is not JSON ({error})") from error
    if not isinstance(manifest, dict) or not {"files", "version"} <= set(manifest):
        raise BundleError(path, "does not describe a bundle")
    if manifest.get("format") != FORMAT:
        remedy = "train again, or use the version of Fenliu that made it"
        raise BundleError(path, f"is of format {manifest.get('format')}, this version reads {FORMAT}", remedy)
    return manifest


def check_files(root: Path, manifest: Mapping[str, Any]) -> None:
    """Every file that the manifest names is there, whole. Raises BundleError naming the first that is not."""
    for name, digest in manifest["files"].items():
        path = root / name
        if not path.is_file():
            raise BundleError(path, "is missing", "fetch or publish it again")
        if _digest(path) != digest:
            raise BundleError(path, "differs from what was published", "fetch or publish it again")


def digests(root: Path) -> dict[str, str]:
    """SHA-256 by relative path of all files but the manifest, sorted."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(root).as_posix(): _digest(path) for path in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _assemble(root: Path, manifest: dict[str, Any]) -> Bundle:
    items = Vocabulary((root / "ids.txt").read_text(encoding="utf-8").split("\n")[:-1])
    table = _array(root, "items/table", ITEM.dtype)
    if not np.array_equal(table["key"], items.keys):
        raise BundleError(root / "items/table.npy", "its keys are not those of ids.txt")
    texts = Texts(_array(root, "items/texts"), _array(root, "items/offsets"))
    known, layouts = _array(root, "items/known"), _array(root, "items/layouts")
    golden: Sequence[Mapping[str, Any]] = json.loads((root / "golden.json").read_text(encoding="utf-8"))
    version = str(manifest["version"])
    said = {key: value for key, value in manifest.items() if key not in ("version", "format", "files")}
    return Bundle(
        version=version,
        manifest=said,
        items=items,
        compiled=CompiledItems(items.ids, table, known, layouts, texts),
        stats=_array(root, "stats", ITEM_STATS.dtype),
        model=load_model(root / "model"),
        popular=Popular.load(root / "popular"),
        neighbours=Neighbours.load(root / "neighbours"),
        blend=Blend.load(root),
        schemas=Schemas.from_json((root / "schemas.json").read_text(encoding="utf-8")),
        golden=tuple(golden),
        uplift=Uplift.load(root) if UPLIFT_FILE in manifest["files"] else None,
        ranker=Ranker.load(root) if RANKER_FILE in manifest["files"] else None,
    )


def _array(root: Path, name: str, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    path = root / f"{name}.npy"
    mode: Any = "r" if path.stat().st_size > 4096 else None  # a map of a small file costs more than it saves
    array: NDArray[Any] = np.load(path, mmap_mode=mode, allow_pickle=False)
    if dtype is not None and array.dtype != dtype:
        remedy = "train again: a missing permission column may not be guessed"
        raise BundleError(path, "has other columns than this version of Fenliu", remedy)
    return array


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot stand in a manifest")
