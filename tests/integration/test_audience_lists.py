"""Lists from file to membership: in the store, in the base, and again with the next materialisation."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from features.ids import key32
from features.keyspace import KeySpace, ViewBatch
from features.materialise import materialise
from features.redis_plain import opened
from features.store import feature_key
from features.views import AUDIENCES_KEPT, MEMBERSHIP, PROFILE
from serving.audience import AudienceError, compile_audiences, parse_rule
from serving.lists import ListError, ListShelf
from serving.plan import check_plan
from serving.settings import Settings
from training.audience_commands import count_audience, evaluate_offline, lookalike, remove, upload
from training.audiences import AudienceCountError, count, write_batch, write_scores
from training.base_columns import Base, BaseCopy
from training.lake import Lake
from training.lists import Lists, read_ids, with_lists
from training.lookalike import lookalikes
from training.materialize import swap_to

AS_OF = 1_790_000_000.0
N = 500
ORGS = {"head": None, "bj": "head", "bj1": "bj", "sh": "head"}


def ids_of(*numbers: int) -> np.ndarray:
    return np.array([f"u{n}".encode() for n in numbers], np.bytes_)


@pytest.fixture
def batches() -> list[ViewBatch]:
    """u0 … u499 (in the order of their texts): org by thirds, assets by number; every tenth in audience 3."""
    ids = np.sort(ids_of(*range(N)))
    number = np.array([int(one[1:]) for one in ids.tolist()])
    records = PROFILE.blank(N)
    records["org"] = np.array([key32(one) for one in ("bj", "bj1", "sh")], np.uint32)[number % 3]
    records["assets"], records["age"] = number * 1000.0, 20 + number % 50
    records["risk_level"] = 1 + number % 5
    known = np.full(N, PROFILE.all_known, np.uint64)
    known[number % 7 == 0] &= ~np.uint64(PROFILE.bit("assets"))
    members = np.flatnonzero(number % 10 == 0)
    held = MEMBERSHIP.blank(len(members))
    held["audiences"][:, 0] = 3
    return [
        ViewBatch(PROFILE, ids, PROFILE.pack(records, as_of=AS_OF, known=known), AS_OF),
        ViewBatch(MEMBERSHIP, ids[members], MEMBERSHIP.pack(held, as_of=AS_OF), AS_OF),
    ]


@pytest.fixture
def users() -> pa.Table:
    churn = [None if n % 4 == 0 else n / N for n in range(N)]
    return pa.table({"user_id": [f"u{n}" for n in range(N)], "churn": churn, "job": ["x", "y"] * (N // 2)})


@pytest.fixture
def lists(valkey_url: str, tmp_path: Path, batches: list[ViewBatch], users: pa.Table) -> Lists:
    space = materialise(valkey_url, "v1", batches, rng=np.random.default_rng(0))
    base = Base(BaseCopy(tmp_path / "base", users).write("v1", batches))
    return Lists(ListShelf(str(tmp_path / "registry")), Lake(tmp_path / "lake"), valkey_url, space, base)


def held(lists: Lists, user: str, version: str = "v1") -> list[int]:
    """The audiences that the store has for a customer."""
    with opened(lists.store or "") as store:
        blob = store.get(feature_key(version, "membership", user))
    if blob is None:
        return []
    record = MEMBERSHIP.decode(bytes(blob))
    found = record.values["audiences"]
    assert record.as_of == AS_OF
    assert np.count_nonzero(found[len(found[found > 0]) :]) == 0
    assert found[found > 0].tolist() == sorted(found[found > 0].tolist())
    return found[found > 0].tolist()


def write(lists: Lists, name: str, ids: np.ndarray, **how: object) -> object:
    return lists.write(name, ids, **{"kind": "upload", "owner": "alice", "at": AS_OF, **how})


def test_a_list_is_put_in_replaced_and_taken_away(lists: Lists) -> None:
    seen: list[int] = []
    first = write(lists, "vip", ids_of(5, 10, 11, 9999), progress=seen.append)
    number = first.entry.number
    assert (first.added, first.removed, first.strangers, first.entry.version) == (4, 0, 1, 1)
    assert sum(seen) == 4
    assert [held(lists, u) for u in ("u5", "u10", "u9999", "u20")] == [[number], [3, number], [number], [3]]
    second = write(lists, "vip", ids_of(10, 20))
    assert (second.added, second.removed, second.entry.version, second.entry.number) == (1, 3, 2, number)
    assert [held(lists, u) for u in ("u5", "u10", "u20", "u9999")] == [[], [3, number], [3, number], []]
    assert lists.shelf.numbers() == {"vip": number}
    lists.remove("vip")
    assert [held(lists, u) for u in ("u10", "u20")] == [[3], [3]]
    assert lists.shelf.numbers() == {}
    assert write(lists, "next", ids_of(1)).entry.number == number + 1  # a number is not given out twice


def test_life_spans_stay_and_new_records_get_one(lists: Lists) -> None:
    with opened(lists.store or "") as store:
        before = store.ttl(feature_key("v1", "membership", "u10"))
        write(lists, "vip", ids_of(10, 11))
        assert 0 <= before - store.ttl(feature_key("v1", "membership", "u10")) <= 5
        assert store.ttl(feature_key("v1", "membership", "u11")) > 39 * 86_400


def test_an_upload_that_was_killed_is_made_whole_by_the_next(
    lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lists, "vip", ids_of(1, 2))
    put = Lake.put

    def broken(lake: Lake, path: str, blob: bytes) -> None:
        if not path.endswith(".coming.parquet"):
            raise OSError("the disk is gone")
        put(lake, path, blob)

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "put", broken)
        with pytest.raises(OSError, match="disk is gone"):
            write(lists, "vip", ids_of(2, 3))
    assert lists.entry("vip").writing
    number = lists.entry("vip").number
    write(lists, "vip", ids_of(1, 4))
    assert [held(lists, u) for u in ("u1", "u2", "u3", "u4")] == [[number], [], [], [number]]
    assert not lists.entry("vip").writing


def test_who_is_in_too_many_audiences_stays_out_and_is_counted(lists: Lists) -> None:
    for n in range(AUDIENCES_KEPT - 1):
        write(lists, f"l{n}", ids_of(10))
    done = write(lists, "vip", ids_of(10, 11))
    assert done.full == 1
    assert (len(held(lists, "u10")), held(lists, "u11")) == (AUDIENCES_KEPT, [done.entry.number])


def test_the_next_materialisation_keeps_lists(
    lists: Lists, batches: list[ViewBatch], valkey_url: str
) -> None:
    number = write(lists, "vip", ids_of(5, 10, 9999)).entry.number
    ids = tuple(one.decode() for one in batches[0].ids.tolist())
    records, member = MEMBERSHIP.blank(N), np.zeros(N, np.bool_)
    of_table = np.searchsorted(batches[0].ids, batches[1].ids)
    records[of_table], member[of_table] = batches[1].blobs["values"], True
    found, merged = with_lists(lists.lake, ids, records, member)
    again = [batches[0], ViewBatch(MEMBERSHIP, found, MEMBERSHIP.pack(merged, as_of=AS_OF), AS_OF)]
    space = materialise(valkey_url, "v2", again, rng=np.random.default_rng(0))
    assert isinstance(space, KeySpace)
    assert [held(lists, u, "v2") for u in ("u5", "u10", "u20", "u9999")] == [
        [number], [3, number], [3], [number],
    ]  # fmt: skip
    base = Base(BaseCopy(lists.base.folder.parent, None).write("v2", again))
    assert base.ids[base.memberships[number]].tolist() == sorted(ids_of(5, 10).tolist())


def test_counts_are_those_of_one_by_one(lists: Lists) -> None:
    number = write(lists, "vip", ids_of(*range(0, N, 2))).entry.number
    rules = {
        "rich": parse_rule({"field": "assets", "at_least": 100_000}),
        "both": parse_rule({"all": [{"audience": "rich"}, {"member": "vip"}, {"not": {"member": 3}}]}),
        "job": parse_rule({"all": [{"audience": "both"}, {"did": "login", "within": "1d"}]}),
    }
    compiled = compile_audiences(rules, lists=lists.shelf.numbers())
    expected = [n for n in range(100, N, 2) if n % 7 and n % 10]
    found = count(lists.base, compiled, "both", orgs=ORGS, org="bj")
    inside = [n for n in expected if n % 3 < 2]
    assert (found.members, found.among) == (len(inside), sum(n % 3 < 2 for n in range(N)))
    assert not found.upper_bound
    by_org = {share.label: share.members for share in found.breakdown["org"]}
    assert by_org == {"bj": sum(n % 3 == 0 for n in inside), "bj1": sum(n % 3 == 1 for n in inside)}
    assert len(found.sample) == 5
    assert all("****" in one for one in found.sample)
    live = count(lists.base, compiled, "job")
    assert (live.members, live.not_counted) == (len(expected), ("login 1x in 1 d",))
    with pytest.raises(AudienceCountError, match="no org 'xx'"):
        count(lists.base, compiled, "both", orgs=ORGS, org="xx")
    assert number in lists.base.memberships


def test_scores_and_batch_audiences_become_lists(lists: Lists) -> None:
    rules = {
        "leaving": parse_rule({"score": "churn", "at_least": 0.5}),
        "staying": parse_rule({"not": {"audience": "leaving"}}),
    }
    first = compile_audiences(rules, strict=False)
    write_scores(lists.base, first.scores, lists, owner="job", at=AS_OF)
    compiled = compile_audiences(rules, lists=lists.shelf.numbers())
    counts = [count(lists.base, compiled, name, breakdown=()).members for name in rules]
    known = [n for n in range(N) if n % 4]
    assert counts == [sum(n >= N / 2 for n in known), sum(n < N / 2 for n in known)]
    done = write_batch(lists.base, compiled, "staying", lists, owner="job", at=AS_OF)
    assert done.entry.size == counts[1]
    assert len(held(lists, "u1")) == 2  # staying, and below the threshold
    with pytest.raises(AudienceCountError, match="no score 'love'"):
        write_scores(lists.base, [("love", 1.0, False)], lists, owner="job", at=AS_OF)


def test_lookalikes_find_who_resembles_the_seeds(lists: Lists) -> None:
    rich = np.array([n for n in range(N) if n * 1000 > 400_000 and n % 7])
    seeds = lists.base.rows(ids_of(*rich[::2].tolist()))
    found = lookalikes(lists.base, seeds, 50, np.random.default_rng(1))
    chosen = [int(one[1:]) for one in lists.base.ids[found.rows].tolist()]
    assert not set(rich[::2].tolist()) & set(chosen)
    assert sum(n > 350 for n in chosen) > 40
    assert found.lift > 3
    assert found.interval[0] <= found.lift <= found.interval[1]


def test_ids_are_read_from_text_csv_and_parquet(tmp_path: Path) -> None:
    text, csv, parquet = tmp_path / "a.txt", tmp_path / "a.csv", tmp_path / "a.parquet"
    text.write_text("u2\nu1\n\nu2\n007\n")
    csv.write_text("\ufeffname,user_id\nx,u2\ny,007\nz,u1\n")
    pa.parquet.write_table(pa.table({"user_id": ["u1", "u2", "007", None]}), parquet)
    for path in (text, csv, parquet):
        assert read_ids(path).tolist() == [b"007", b"u1", b"u2"]
    text.write_text("u" * 65)
    with pytest.raises(ListError, match="more than 64 bytes"):
        read_ids(text)
    with pytest.raises(ListError, match="cannot be read"):
        read_ids(tmp_path / "none.csv")


def test_a_list_belongs_to_its_owner_and_kind(lists: Lists) -> None:
    write(lists, "vip", ids_of(1))
    with pytest.raises(ListError, match="upload list of alice"):
        write(lists, "vip", ids_of(2), owner="bob")
    with pytest.raises(ListError, match="there is no list 'other'"):
        lists.remove("other")


def test_the_commands_count_upload_and_find_lookalikes(lists: Lists, valkey_url: str, tmp_path: Path) -> None:
    slot = {"name": "home.feed", "layout": "feed", "size": 3, "kinds": ["product"]}
    plan = check_plan(
        {
            "name": "p",
            "surfaces": {"home": ["home.feed"]},
            "slots": [slot],
            "orgs": [{"id": org, **({"parent": parent} if parent else {})} for org, parent in ORGS.items()],
            "audiences": {
                "vips": {"all": [{"member": "vip"}, {"audience": "grown"}]},
                "grown": {"field": "age", "at_least": 20},
                "other": {"member": "not yet"},
                "leaving": {"score": "churn", "at_least": 0.5},
            },
        }
    )
    settings = Settings(
        home=tmp_path, features_url=valkey_url, control_url=valkey_url, registry=str(tmp_path / "registry")
    )
    swap_to(valkey_url, lists.space)
    file = tmp_path / "vip.csv"
    file.write_text("user_id\n" + "".join(f"u{n}\n" for n in range(100)))
    said = Console(record=True, width=160, file=io.StringIO())
    upload(settings, "vip", file, owner="alice", console=said)
    found = count_audience(settings, "vips", org="bj", plan=plan, console=said)
    assert (found.count.members, found.base) == (67, "v1")
    lookalike(settings, "like vip", "vip", 40, owner="alice", console=said)
    evaluate_offline(settings, owner="job", plan=plan, batch=("vips",), console=said)
    assert count_audience(settings, "leaving", plan=plan).count.members == sum(
        n % 4 > 0 for n in range(250, N)
    )
    remove(settings, "vip", console=said)
    text = said.export_text()
    assert "list vip (number 32768, version 1): 100 customers, 100 put in, 0 taken out" in text
    assert "audience vips: 67 of 334 customers of bj and below" in text
    assert "like vip: lift" in text
    assert "list score:churn>=0.5" in text
    assert "list vips: 100 customers" in text
    with pytest.raises(AudienceError, match="no list 'vip'"):
        count_audience(settings, "vips", plan=plan)
