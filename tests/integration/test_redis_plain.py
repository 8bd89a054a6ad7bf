"""The plain client: the port's errors, bounded waits, no second try, no secret in any text."""

from __future__ import annotations

import socket
import time
import traceback

import pytest

from features.embedded import EmbeddedValkey
from features.redis_address import BadStoreUrl, Refused, parse_address
from features.redis_plain import opened, piped, plain_client, told
from features.redis_resp import packed
from features.store import StoreUnavailable

pytestmark = pytest.mark.integration


def test_error_replies_keep_their_first_word(valkey_url):
    with opened(valkey_url) as store:
        store.set("text", "x")
    for command, code in (
        (("INCR", "text"), "ERR"),
        (("EVALSHA", "0" * 40, 0), "NOSCRIPT"),
        (("LPUSH", "text", "x"), "WRONGTYPE"),
    ):
        with pytest.raises(Refused) as caught, opened(valkey_url) as store:
            store.execute_command(*command)
        assert caught.value.code == code
        assert str(caught.value).startswith(f"the store refused: {code} ")


def test_a_wrong_password_is_refused_and_not_repeated(tmp_path):
    with EmbeddedValkey(tmp_path, port=0) as server:
        url = f"redis://:hidden@{parse_address(server.url).name}"
        with pytest.raises(Refused) as caught, opened(url):
            pass
    assert caught.value.code == "WRONGPASS"
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


def test_a_database_is_selected(valkey_url):
    with opened(f"{valkey_url}?db=3") as store:
        store.set("k", "of three")
    with opened(valkey_url) as store:
        assert store.get("k") is None
        assert store.info("keyspace") == {"db3": store.info("keyspace")["db3"]}


def test_no_store_is_told_with_its_name(tmp_path):
    with (
        pytest.raises(StoreUnavailable, match=rf"no store at {tmp_path}/none"),
        opened(f"unix://{tmp_path}/none"),
    ):
        pass
    with pytest.raises(BadStoreUrl):
        plain_client("store:6379")


def test_a_silent_store_is_given_up_once(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        start = time.perf_counter()
        with (
            pytest.raises(StoreUnavailable, match="Timeout"),
            opened(f"unix://{tmp_path}/s", 0.2) as store,
        ):
            store.get("k")
        assert 0.19 < time.perf_counter() - start < 0.39


def test_a_client_finds_a_store_that_was_started_again(tmp_path):
    server = EmbeddedValkey(tmp_path).start()
    with plain_client(server.url) as client:
        client.set("k", "kept")
        server.stop()
        with pytest.raises(StoreUnavailable, match="gone"), told("gone"):
            client.get("k")
        server.start()
        assert client.get("k") == b"kept"
    server.stop()


def test_a_pipe_reads_the_replies_it_is_told_to_and_names_the_first_refusal(valkey_url):
    with piped(valkey_url) as pipe:
        pipe.send(packed(("SET", "a", "1")) + packed(("SET", "b", "2")))
        pipe.settle(2)
        pipe.send(packed(("SET", "c", "3")) + packed(("INCR",)) + packed(("NONE",)))
        with pytest.raises(Refused, match="'incr'"):
            pipe.settle(3)
    with opened(valkey_url) as store:
        assert store.mget("a", "b", "c") == [b"1", b"2", b"3"]
