"""Routing: what each type of exchange matches, told in tables; the trie against a matcher that tries everything."""

import random
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import seglog
from seglog.routing import TABLES, Binding, TopicTable, arguments_of, check_binding, check_key, words_of


def matched(type, bindings, key="", headers=None, hash_header=None):
    """The names that match; `bindings` is name -> pattern, or -> (pattern, arguments)."""
    table = TABLES[type](hash_header)
    for name, said in bindings.items():
        pattern, arguments = said if isinstance(said, tuple) else (said, {})
        check_binding(type, pattern, arguments_of(arguments))
        table.bind(name, Binding("x", "queue", name, pattern, arguments_of(arguments)))
    return sorted(to.name for to in table.match(key, headers or {}))


# ---- direct and fanout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "expected"),
    [("red", ["a", "b"]), ("blue", ["c"]), ("re", []), ("red.", []), ("", ["d"]), ("RED", []), ("*", [])],
)
def test_direct_matches_the_same_key_and_several_may_have_it(key, expected):
    assert matched("direct", {"a": "red", "b": "red", "c": "blue", "d": ""}, key) == expected


def test_fanout_matches_everything():
    assert matched("fanout", {"a": "", "b": ""}, "whatever") == ["a", "b"]
    assert matched("fanout", {}, "whatever") == []


# ---- topic ------------------------------------------------------------------------------------------------------------

PATTERNS = [
    # pattern, keys that match, keys that do not
    ("a.b", ["a.b"], ["a", "b", "a.b.c", "", "a.b.", ".a.b", "a..b"]),
    ("*", ["a", "é", "*", "#"], ["", "a.b", "."]),
    ("#", ["", "a", "a.b", "a.b.c", ".", "a..b", "#.#"], []),
    ("*.b", ["a.b", ".b"], ["b", "a.c", "a.a.b", "a.b.c"]),
    ("a.*", ["a.b", "a."], ["a", "a.b.c", "b.b"]),
    ("a.*.c", ["a.b.c", "a..c"], ["a.c", "a.b.b.c"]),
    ("a.#", ["a", "a.b", "a.b.c"], ["", "b", "ab", "b.a"]),
    ("#.c", ["c", "b.c", "a.b.c", "c.c"], ["", "c.a", "bc"]),
    ("a.#.c", ["a.c", "a.b.c", "a.b.b.c", "a.c.c", "a.a.c"], ["a", "c", "a.b", "b.c", "a.c.b", ""]),
    ("#.b.#", ["b", "a.b", "b.c", "a.b.c", "b.b"], ["", "a", "a.c", "ab.c"]),
    ("#.*", ["a", "a.b"], [""]),
    ("*.#", ["a", "a.b"], [""]),
    ("#.*.#", ["a", "a.b", "a.b.c"], [""]),
    ("*.#.*", ["a.b", "a.b.c"], ["", "a"]),
    ("#.#", ["", "a", "a.b"], []),
    ("#.a.#.a.#", ["a.a", "a.b.a", "b.a.a.b"], ["a", "a.b", ""]),
    ("a.#.*.b", ["a.x.b", "a.x.y.b"], ["a.b", "a"]),
    ("#.a.*.b", ["a.x.b", "z.a.x.b", "a.a.a.b"], ["a.b", "a.x.y.b"]),
    ("", [""], ["a", "."]),
    (".", ["."], ["", "a", ".."]),
    ("a*", ["a*"], ["ab", "a"]),
    ("a#", ["a#"], ["a", "ab"]),
    ("*.orange.*", ["quick.orange.rabbit", "lazy.orange.elephant"], ["orange", "quick.orange.new.rabbit"]),
    ("lazy.#", ["lazy.orange.male.rabbit", "lazy"], ["quick.lazy"]),
]


@pytest.mark.parametrize(("pattern", "those", "others"), PATTERNS, ids=[repr(pattern) for pattern, _, _ in PATTERNS])
def test_topic_patterns_mean_what_amqp_says(pattern, those, others):
    assert [key for key in those if not matched("topic", {"q": pattern}, key)] == []
    assert [key for key in others if matched("topic", {"q": pattern}, key)] == []


def test_patterns_do_not_get_in_each_others_way():
    bindings = {str(i): pattern for i, (pattern, _, _) in enumerate(PATTERNS)}
    for key in {key for _, those, others in PATTERNS for key in those + others}:
        alone = [name for name, pattern in bindings.items() if matched("topic", {name: pattern}, key)]
        assert matched("topic", bindings, key) == sorted(alone), key


def naive(pattern, key):
    """By trying: `#` is nothing, or a word and then itself."""
    if not pattern:
        return not key
    if pattern[0] == "#":
        return naive(pattern[1:], key) or bool(key and naive(pattern, key[1:]))
    return bool(key) and pattern[0] in ("*", key[0]) and naive(pattern[1:], key[1:])


def split(text):
    return text.split(".") if text else []


words = st.lists(st.sampled_from(["a", "b", "", "*", "#", "*", "#"]), max_size=7).map(".".join)
keys = st.lists(st.sampled_from(["a", "b", "c", "", "*", "#"]), max_size=8).map(".".join)


@given(
    st.lists(words, max_size=12, unique=True), st.lists(keys, min_size=1, max_size=6), st.randoms(use_true_random=False)
)
def test_the_trie_is_the_naive_matcher_whatever_was_bound_and_unbound_before(patterns, asked, rng):
    table = TopicTable()
    bound = {str(i): Binding("x", "queue", str(i), pattern) for i, pattern in enumerate(patterns)}
    for name, binding in bound.items():
        table.bind(name, binding)
    gone = rng.sample(sorted(bound), len(bound) // 2)
    for stage in range(2):
        for key in asked:
            expected = {name for name, binding in bound.items() if naive(split(binding.pattern), split(key))}
            assert {to.name for to in table.match(key, {})} == expected, key
        for name in gone if stage == 0 else ():
            table.unbind(name, bound.pop(name))
    for name, binding in bound.items():
        table.unbind(name, binding)
    assert table._root.empty  # nothing is left behind that would grow


@given(words, keys)
def test_the_form_in_which_a_pattern_is_held_matches_the_same(pattern, key):
    assert naive(words_of(pattern), split(key)) == naive(split(pattern), split(key))


def test_one_of_two_bindings_of_a_pattern_can_go():
    table = TopicTable()
    one, two = (Binding("x", "queue", name, "a.#") for name in "pq")
    table.bind("1", one)
    table.bind("2", two)
    table.unbind("1", one)
    table.unbind("1", one)
    table.unbind("3", Binding("x", "queue", "r", "b.*.#.c"))
    assert [to.name for to in table.match("a.b", {})] == ["q"]


@pytest.mark.parametrize(
    "patterns",
    [
        ["#.a" * n + ".#" for n in range(1, 60)],
        ["#.*.a" * n + ".z" for n in range(1, 40)],
        [
            ".".join(rng.choice(["#", "*", "a", "b"]) for _ in range(30)) + ".z"
            for rng in map(random.Random, range(300))
        ],
    ],
    ids=["a", "any a", "random"],
)
def test_many_wildcards_do_not_blow_up(patterns):
    """A matcher that tries takes longer than the universe has time for the first of these."""
    table = TopicTable()
    for i, pattern in enumerate(patterns):
        table.bind(str(i), Binding("x", "queue", str(i), pattern))
    start = time.process_time()
    table.match(".".join(["a", "b"] * 30 + ["a"] * 67), {})
    assert time.process_time() - start < 1.0


# ---- headers ----------------------------------------------------------------------------------------------------------

PDF = {"format": b"pdf", "type": b"report"}
HEADERS = [
    # arguments of the binding, headers of the message, whether
    (PDF, {"format": b"pdf", "type": b"report", "more": b"1"}, True),
    (PDF, {"format": b"pdf", "type": b"log"}, False),
    (PDF, {"format": b"pdf"}, False),
    (PDF, {}, False),
    (PDF | {"x_match": "all"}, {"format": b"pdf"}, False),
    (PDF | {"x_match": "any"}, {"format": b"pdf", "type": b"log"}, True),
    (PDF | {"x-match": "any"}, {"type": b"report"}, True),
    (PDF | {"x-match": "any"}, {"format": b"png"}, False),
    (PDF | {"x-match": "any"}, {}, False),
    ({}, {}, True),
    ({}, {"any": b"thing"}, True),
    ({"x-match": "any"}, {"any": b"thing"}, False),
    ({"signed": None}, {"signed": b""}, True),
    ({"signed": None}, {"signed": None}, True),
    ({"signed": None}, {}, False),
    ({"empty": b""}, {"empty": b""}, True),
    ({"empty": b""}, {"empty": None}, False),
    ({"x-kind": b"a", "format": b"pdf"}, {"format": b"pdf"}, True),
    ({"x-kind": b"a", "format": b"pdf", "x-match": "any"}, {"x-kind": b"a"}, False),
    ({"x-kind": b"a", "format": b"pdf", "x-match": "all-with-x"}, {"format": b"pdf"}, False),
    ({"x-kind": b"a", "format": b"pdf", "x-match": "all-with-x"}, {"format": b"pdf", "x-kind": b"a"}, True),
    ({"x-kind": b"a", "format": b"pdf", "x-match": "any-with-x"}, {"x-kind": b"a"}, True),
    ({"x-kind": b"a", "format": b"pdf", "x-match": "any-with-x"}, {"x-kind": b"b"}, False),
    ({"blob": bytearray(b"1")}, {"blob": memoryview(b"1")}, True),
]


@pytest.mark.parametrize(("arguments", "headers", "whether"), HEADERS)
def test_headers_match_as_the_binding_says(arguments, headers, whether):
    assert matched("headers", {"q": ("", arguments)}, "ignored", headers) == (["q"] if whether else [])


# ---- hash -------------------------------------------------------------------------------------------------------------


def shares(weights, keys=20_000):
    table = TABLES["hash"](None)
    for name, weight in weights.items():
        table.bind(name, Binding("x", "queue", name, weight))
    return {str(n): next(iter(table.match(str(n), {}))).name for n in range(keys)}


def test_a_key_goes_to_one_destination_and_always_to_the_same():
    assert shares({"a": "1", "b": "1", "c": "1"}) == shares({"c": "1", "b": "1", "a": "1"})
    assert matched("hash", {}, "k") == []
    assert matched("hash", {"a": "0.1"}, "k") == ["a"]


def test_keys_are_shared_by_weight():
    counts = Counter(shares({"a": "1", "b": "2", "c": "0.5", "d": "0.5"}).values())
    for name, share in {"a": 0.25, "b": 0.5, "c": 0.125, "d": 0.125}.items():
        assert counts[name] / 20_000 == pytest.approx(share, rel=0.06)


def test_a_destination_that_comes_or_goes_moves_only_its_own_keys():
    few, many = shares({"a": "1", "b": "2"}), shares({"a": "1", "b": "2", "c": "1"})
    moved = {key for key in few if few[key] != many[key]}
    assert moved == {key for key, name in many.items() if name == "c"}
    assert len(moved) / 20_000 == pytest.approx(0.25, rel=0.06)


def test_several_bindings_of_one_destination_add_up():
    table = TABLES["hash"](None)
    for name, to, weight in (("1", "a", "1"), ("2", "a", "1"), ("3", "b", "2")):
        table.bind(name, Binding("x", "queue", to, weight))
    together = {str(n): next(iter(table.match(str(n), {}))).name for n in range(2000)}
    assert together == shares({"a": "2", "b": "2"}, 2000)
    table.unbind("3", Binding("x", "queue", "b", "2"))
    assert {to.name for n in range(99) for to in table.match(str(n), {})} == {"a"}


def test_the_header_is_hashed_where_one_is_named():
    bindings = dict.fromkeys("abcdefgh", "1")
    by_header = [matched("hash", bindings, str(n), {"customer": b"7"}, "customer") for n in range(20)]
    assert by_header == by_header[:1] * 20
    assert len({tuple(matched("hash", bindings, "k", {"customer": b"%d" % n}, "customer")) for n in range(50)}) > 4
    assert matched("hash", bindings, "a", {}, "customer") == matched(
        "hash", bindings, "b", {"customer": None}, "customer"
    )


def test_the_places_of_keys_do_not_change_from_version_to_version():
    """What a key was hashed to yesterday it is tomorrow: these are for ever."""
    table = TABLES["hash"](None)
    for name in "abcd":
        table.bind(name, Binding("x", "queue", name, "1"))
    assert "".join(next(iter(table.match(str(n), {}))).name for n in range(24)) == "adadbaadbcddbbbcaaaaddaa"


# ---- bad input --------------------------------------------------------------------------------------------------------


def test_a_key_has_at_most_255_bytes():
    assert check_key("k" * 255) and check_key("é" * 127)
    for key in ("k" * 256, "é" * 128, "\ud800"):
        with pytest.raises(seglog.ConfigError, match="routing_key is "):
            check_key(key)
    for key in (b"k", None, 5, ["a"]):
        with pytest.raises(TypeError, match="routing_key is a str"):
            check_key(key)


@pytest.mark.parametrize("weight", ["", "0", "-1", "nan", "inf", "1e7", "heavy", "1;1"])
def test_a_weight_is_a_positive_number(weight):
    with pytest.raises(seglog.ConfigError, match="weight"):
        check_binding("hash", weight, {})


@pytest.mark.parametrize(
    ("type", "pattern", "arguments"),
    [
        ("fanout", "a", {}),
        ("headers", "a", {}),
        ("direct", "a", {"format": b"pdf"}),
        ("topic", "a", {"x-match": "any"}),
        ("topic", "a" * 256, {}),
        ("hash", "1", {"h": None}),
    ],
)
def test_what_a_type_does_not_look_at_is_refused(type, pattern, arguments):
    with pytest.raises(seglog.ConfigError, match="Nothing was changed"):
        check_binding(type, pattern, arguments_of(arguments))


def test_what_a_header_must_be_is_bytes():
    for value in ("pdf", 5, 1.5, ["pdf"]):
        with pytest.raises(TypeError):
            arguments_of({"format": value})
    for how in ("some", None, b"any", 1):
        with pytest.raises(seglog.ConfigError, match="x-match"):
            arguments_of({"x-match": how})
    with pytest.raises(seglog.ConfigError, match="name of a header"):
        arguments_of({"h" * 300: b""})
