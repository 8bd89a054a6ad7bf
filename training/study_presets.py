"""Protocols with published figures, by name: where their files are, how they are read, what is fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from training.model import NEVER

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Preset:
    """`arguments`: of the command line, files relative to the data folder; `config`: of the models."""

    about: str
    files: Mapping[str, str]
    arguments: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


IALS_NCF: Final = {
    "factors": 192,
    "epochs": 12,
    "fixed": [[0.007, 0.3]],
    "exponent": 1.0,
    "strengths": [0.0],
    "half_lives": [NEVER],
    "block": 192,
}
"""As published for ML-1M: d 192, 12 epochs, lambda 0.007, alpha0 0.3, nu 1, first deviation 0.1."""

IALS_LASTFM: Final = {
    "factors": 64,
    "epochs": 12,
    "exponent": 0.9,
    "settings": [[0.0169, 54.1]],
    "strengths": [1.0],
}
"""Found by `fenliu tune --preset lastfm --model ials` on the validation part: 48 trials, 40 stopped early.

An alpha of implicit's own, such as the published 20, is 27.4 of `als`: one event weighs log 2 here.
"""

PRESETS: Final[Mapping[str, Preset]] = {
    "ncf-ml-1m": Preset(
        "He et al. 2017's leave-last-out of ML-1M: one positive against the 99 candidates given",
        {
            "train": "ncf-ml-1m/train.csv.gz",
            "test": "ncf-ml-1m/test.rating.gz",
            "candidates": "ncf-ml-1m/test.negative.gz",
        },
        {"columns": "user=1,item=2", "metric": "ndcg@10"},
        {
            "evaluation": {"tuning_customers": 6040},
            "ials": IALS_NCF,
            "als": {"factors": 192, "iterations": 15, "settings": [[30.0, 5.0]], "strengths": [0.01]},
        },
    ),
    "ml-1m-time": Preset(
        "ML-1M by time: ratings of 4 and more, train the earliest 80 %, test the last 10 %, full ranking",
        {"data": "ml-1m/ratings.csv.gz"},
        {
            "columns": "user=user,item=movie,weight=rating,timestamp=timestamp,split=split",
            "split": "marked",
            "min_weight": 4.0,
            "binary": True,
            "min_history": 5,
            "metric": "ndcg@10",
            "rank_valid": True,
        },
    ),
    "lastfm": Preset(
        "HetRec Last.fm as LightGCN++ splits it, full ranking, the validation part masked",
        {"train": "lastfm/train.txt.gz", "test": "lastfm/test.txt.gz", "valid": "lastfm/valid.txt.gz"},
        {"metric": "ndcg@20", "unseen": "keep"},
        {
            "ials": IALS_LASTFM,
            "als": {
                "factors": 192,
                "iterations": 15,
                "settings": [[50.0, 27.4], [100.0, 27.4], [50.0, 20.0], [100.0, 50.0]],
                "strengths": [0.01, 0.1],
            },
            "ease": {"ridges": [50.0]},
        },
    ),
}


def found(name: str, folder: Path) -> dict[str, Path]:
    """The files of a preset by argument. Raises FileNotFoundError that says where they are looked for."""
    files = {role: folder / path for role, path in PRESETS[name].files.items()}
    missing = [str(path) for path in files.values() if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"the preset {name} needs {', '.join(missing)}: set FENLIU_DATA to the folder of the public data "
            "sets, or name your own files by --train and --test"
        )
    return files
