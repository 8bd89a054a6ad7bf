"""The tag dictionary."""

import numpy as np
import orjson
import pytest

from features.tags import Tag, TagDictionary, TagError


def tag(name="vip", bit=3, **more):
    entry = {
        "type": "rule",
        "owner": "crm",
        "source": "core",
        "freshness": 1,
        "purpose": "profiling",
        "retention": 365,
    }
    return {"id": name, "bit": bit} | entry | more


def dictionary(*entries):
    return TagDictionary.from_json(orjson.dumps(list(entries)))


THREE = dictionary(tag("c", 127), tag("a", 0), tag("b", 9))


def test_tags_pack_into_sixteen_bytes_little_bit_first():
    packed = THREE.pack(["a", "c", "b", "a"])
    assert packed.dtype == np.uint8
    assert packed.tolist() == [1, 2] + [0] * 13 + [128]


@pytest.mark.parametrize("ids", [(), ("a",), ("a", "b", "c"), ("c",)])
def test_what_is_packed_is_unpacked(ids):
    assert THREE.unpack(THREE.pack(ids)) == ids


def test_bits_without_a_tag_are_left_out():
    assert THREE.unpack([255] * 16) == ("a", "b", "c")
    assert TagDictionary().unpack([255] * 16) == ()


def test_looking_up():
    assert len(THREE) == 3
    assert "a" in THREE
    assert "z" not in THREE
    assert [entry.bit for entry in THREE.tags] == [0, 9, 127]
    assert THREE["b"] == Tag("b", "rule", "crm", "core", 1, "profiling", 365, 9)
    for ask in (lambda: THREE["z"], lambda: THREE.pack(["a", "z"])):
        with pytest.raises(TagError, match="'z' is not in"):
            ask()


def test_saved_and_loaded(tmp_path):
    THREE.save(tmp_path / "tags.json")
    assert TagDictionary.load(tmp_path / "tags.json").tags == THREE.tags


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([tag("a", 1), tag("a", 2)], "tag a occurs twice"),
        ([tag("a", 1), tag("b", 1)], "tags a and b share bit 1"),
        ([tag(bit=128)], "bit 128"),
        ([tag(bit=-1)], "bit -1"),
        ([tag(bit=1.5)], "bit 1.5"),
        ([tag("")], "1 to 64 bytes"),
        ([tag(5)], "must be text"),
        ([tag(type="guess")], "type 'guess'"),
        ([tag(purpose="fun")], "purpose 'fun'"),
        ([tag(freshness=0)], "freshness"),
        ([tag(retention="long")], "retention"),
        ([tag(owner="")], "owner"),
        ([tag(colour="red")], "entry 0: unknown colour"),
        ([tag(), {"id": "x"}], "entry 1: bit, freshness, owner"),
        ([7], "entry 0: not an object"),
    ],
)
def test_a_dictionary_that_contradicts_itself_is_refused(entries, says):
    with pytest.raises(TagError, match=says):
        dictionary(*entries)


@pytest.mark.parametrize("text", ["", "{}", "null", "[1", '{"a": 1}'])
def test_what_is_no_list_of_tags_is_refused(text):
    with pytest.raises(TagError):
        TagDictionary.from_json(text)
