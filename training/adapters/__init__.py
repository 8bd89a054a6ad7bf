"""Readers of data sets: `load` takes the name of one, or the path of anybody's events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from serving.catalogue import CatalogueError
from training.adapters import complete_journey, general, insurance, lastfm, ml_1m
from training.adapters.general import Options
from training.source import DataError, Source

ADAPTERS: Final[Mapping[str, Callable[..., Source]]] = {
    ml_1m.NAME: ml_1m.load,
    insurance.NAME: insurance.load,
    lastfm.NAME: lastfm.load,
    complete_journey.NAME: complete_journey.load,
}

_ENDINGS: Final = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


def data_folder(environment: Mapping[str, str], root: Path) -> Path:
    """Where the public data sets lie: FENLIU_DATA, else ../shared/data beside the project."""
    return Path(environment.get("FENLIU_DATA") or root / "../shared/data")


def load(
    source: str | Path, *, now: float, data: Path | None = None, options: Options | None = None
) -> Source:
    """Read a data set. Raises DataError, whose text is the message for people.

    `source`: one of ADAPTERS (read from its folder in `data`), a folder of such a set, an events file, or a
    folder with events.csv and, where there are any, items.csv and users.csv (also .tsv, .gz, .parquet).
    """
    path = Path(source)
    if str(source) in ADAPTERS and not path.exists():
        if data is None or not (data / str(source)).is_dir():
            where = "no data folder is given" if data is None else f"it is not in {data}"
            raise DataError(str(source), None, None, where, "Set FENLIU_DATA to the folder that holds it")
        return _public(str(source), data / str(source), now)
    if path.is_dir():
        if path.resolve().name in ADAPTERS and _found(path, "events") is None:
            return _public(path.resolve().name, path, now)
        path, options = _folder(path, options or Options())
    return general.load(path, now=now, options=options)


def _public(name: str, folder: Path, now: float) -> Source:
    try:
        return ADAPTERS[name](folder, now=now)
    except CatalogueError as error:
        raise DataError(str(folder), None, None, str(error), "Fetch the set again") from None


def _folder(folder: Path, options: Options) -> tuple[Path, Options]:
    events = _found(folder, "events")
    if events is None:
        problem = "this folder holds no events.csv, .tsv or .parquet"
        raise DataError(
            str(folder),
            None,
            None,
            problem,
            "Name the events file itself, and items and users where there are any",
        )
    items, users = options.items or _found(folder, "items"), options.users or _found(folder, "users")
    return events, replace(options, items=items, users=users, name=options.name or folder.resolve().name[:40])


def _found(folder: Path, stem: str) -> Path | None:
    return next((path for end in _ENDINGS if (path := folder / f"{stem}{end}").is_file()), None)
