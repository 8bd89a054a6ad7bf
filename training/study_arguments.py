"""The command line of `fenliu evaluate` and `fenliu tune`, apart from what runs: `--help` is instant."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

EVALUATE_EXAMPLES: Final = """  fenliu evaluate --train train.csv --test test.csv
  fenliu evaluate --data events.parquet --split time:0.8 --columns user=cust_no,item=sku,timestamp=ts
  fenliu evaluate --data transactions.csv --columns item=ISIN --only transactionType=Buy --split time:0.8
  fenliu evaluate --data ratings.csv --columns weight=rating --min-weight 4 --binary --split last --core 5
  fenliu evaluate --train t.csv --test h.csv --candidates c.tsv --models ials,ease,ensemble --seeds 5
  fenliu evaluate --train t.csv --test h.csv --users u.csv --segment age_band --items i.csv --item-group kind
  fenliu evaluate --train t.csv --test h.csv --curve 0,1,3,5,10
  fenliu evaluate --preset ncf-ml-1m --seeds 5 --json ncf.json

Columns: user, item, and where there are such weight (above 0; more is more), timestamp (seconds or
milliseconds since 1970, or ISO 8601) and split (train, valid, test). Common names are found by themselves.
CSV, TSV, ::, spaces, each also gzipped, with or without a header; Parquet; or one line a user: user item …
Candidates: a line a user, user item item …, or rows of user and item.
"""
TUNE_EXAMPLES: Final = """  fenliu tune --model ials --data events.parquet --split time:0.8 --out tuned.yaml
  fenliu tune --model ials --model ease --preset lastfm --trials 60 --minutes 30
  fenliu train --config tuned.yaml
  fenliu evaluate --train t.csv --test h.csv --config tuned.yaml

Only the validation part is looked at, never the test. The same command again goes on where it was stopped.
"""
PRESET_NAMES: Final = ("ncf-ml-1m", "ml-1m-time", "lastfm")


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    shown = parser.add_argument_group("what is measured")
    shown.add_argument("--models", metavar="NAME,…", help="of als, ials, ease, neighbours, popular, ensemble")
    shown.add_argument(
        "--trials", type=int, default=24, metavar="N", help="settings of a model tried at most"
    )
    shown.add_argument(
        "--seeds", type=int, default=1, help="fits each model from so many seeds; means and spread"
    )
    shown.add_argument(
        "--curve", metavar="N,…", help="also as if customers were known by N items: 0,1,3,5,10"
    )
    shown.add_argument("--json", type=Path, metavar="FILE", help="everything that was found")
    shown.add_argument("--fresh", action="store_true", help="do not take over what was measured before")


def add_tune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", action="append", required=True, choices=("als", "ials", "ease", "neighbours", "popular"),
        help="to be tuned; may be given several times",
    )  # fmt: skip
    add_data(parser)
    search = parser.add_argument_group("search")
    search.add_argument(
        "--trials", type=int, default=40, metavar="N", help="settings in all, earlier runs' included"
    )
    search.add_argument("--minutes", type=float, default=60.0, metavar="M", help="stop after so many")
    search.add_argument(
        "--out", type=Path, default=Path("tuned.yaml"), metavar="FILE", help="the best, for train"
    )
    search.add_argument("--json", type=Path, metavar="FILE", help="every trial")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Data, protocol and configuration, as `evaluate` and `tune` share them."""
    data = parser.add_argument_group("data")
    data.add_argument("--train", type=Path, metavar="FILE", help="interactions to learn from")
    data.add_argument("--test", type=Path, metavar="FILE", help="interactions to be found")
    data.add_argument(
        "--valid", type=Path, metavar="FILE", help="interactions to tune on (else cut from training)"
    )
    data.add_argument(
        "--known", type=Path, metavar="FILE", help="history of tested users that nothing is learnt from"
    )
    data.add_argument("--data", type=Path, metavar="FILE", help="one file, divided by --split")
    data.add_argument("--split", metavar="HOW", help="time:0.8, date:2020-01-31, last, random:0.2 or marked")
    data.add_argument(
        "--preset", choices=PRESET_NAMES, help="a protocol with published figures, from $FENLIU_DATA"
    )
    data.add_argument(
        "--candidates", type=Path, metavar="FILE", help="rank only these (and what is held out)"
    )
    data.add_argument(
        "--users", type=Path, metavar="FILE", help="users' attributes: profile of the prior, segments"
    )
    data.add_argument("--items", type=Path, metavar="FILE", help="items' attributes, for slices")
    data.add_argument("--segment", metavar="COLUMN", help="of --users: popularity and slices by it")
    data.add_argument("--item-group", metavar="COLUMN", help="of --items: slices by it")
    data.add_argument(
        "--columns",
        metavar="ROLE=COLUMN,…",
        help="user, item, weight, timestamp, split; numbers without a header",
    )
    data.add_argument(
        "--no-header", dest="header", action="store_const", const=False, help="the first line is data"
    )
    data.add_argument(
        "--header", dest="header", action="store_const", const=True, help="the first line is names"
    )
    data.add_argument("--min-weight", type=float, metavar="N", help="rows below are left out")
    data.add_argument("--binary", action="store_true", default=None, help="every row that is left weighs 1")
    data.add_argument(
        "--only", metavar="COLUMN=VALUE,…", help="rows with these values, such as transactionType=Buy"
    )
    data.add_argument("--delimiter", help="of the text files, where it is not found by itself")
    data.add_argument("--encoding", default="utf-8")
    rules = parser.add_argument_group("protocol")
    rules.add_argument(
        "--core", type=int, default=0, metavar="K", help="first keep users and items with K partners"
    )
    rules.add_argument(
        "--seen",
        choices=("auto", "mask", "keep"),
        default="auto",
        help="items had before: left out of the ranking?",
    )
    rules.add_argument("--unseen", choices=("drop", "keep"), help="held-out items that training never saw")
    rules.add_argument(
        "--min-history", type=int, metavar="N", help="customers with fewer items are not asked"
    )
    rules.add_argument(
        "--history",
        type=int,
        default=0,
        metavar="N",
        help="the latest N items speak for a customer (0: all; the service keeps 64)",
    )
    rules.add_argument(
        "--customers", type=int, default=50_000, metavar="N", help="asked at most, a sample of more"
    )
    rules.add_argument(
        "--learn-valid", action="store_true", help="the tested models learn from --valid as well"
    )
    rules.add_argument(
        "--rank-valid", action="store_true", default=None, help="items of --valid stay in the ranking"
    )
    rules.add_argument("--metric", help="models are tuned and compared by it (ndcg@10; mrr below 80 items)")
    rules.add_argument("--k", default="5,10,20,50", metavar="K,…", help="lengths of lists")
    rules.add_argument("--config", type=Path, metavar="FILE", help="the models' grids, YAML, as for train")
    rules.add_argument("--seed", type=int, default=7)
