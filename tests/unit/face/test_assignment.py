"""Assignors: each partition to one reader of its topic, evenly; sticky moves as few as balance allows."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import seglog
from seglog.assignment import ASSIGNORS, Subscriber, assign, roundrobin, spread_range, sticky


def two(*topics):
    return [Subscriber(1, topics, "a"), Subscriber(2, topics, "b")]


def test_range_gives_runs_and_the_first_one_more():
    assert spread_range(two("t"), {"t": 5}, {}) == {("t", 0): 1, ("t", 1): 1, ("t", 2): 1, ("t", 3): 2, ("t", 4): 2}


def test_roundrobin_deals_over_topics():
    dealt = roundrobin(two("t", "u"), {"t": 3, "u": 3}, {})
    assert list(dealt.values()) == [1, 2, 1, 2, 1, 2]


def test_sticky_moves_only_what_balance_needs():
    three = [*two("t"), Subscriber(3, ("t",), "c")]
    before = sticky(two("t"), {"t": 6}, {})
    after = sticky(three, {"t": 6}, before)
    assert Counter(after.values()) == {1: 2, 2: 2, 3: 2}
    assert sum(before[where] != after[where] for where in before) == 2
    gone = sticky(three[1:], {"t": 6}, after)
    assert all(gone[where] == after[where] for where in gone if after[where] != 1)


MEMBERS = st.lists(st.sets(st.sampled_from("tuv"), min_size=1), min_size=1, max_size=6).map(
    lambda topics: [Subscriber(i + 1, tuple(sorted(t)), str(i)) for i, t in enumerate(topics)]
)


@pytest.mark.parametrize("how", ASSIGNORS)
@given(members=MEMBERS, counts=st.dictionaries(st.sampled_from("tuv"), st.integers(1, 9)), seed=st.integers(0, 1 << 30))
def test_every_partition_goes_to_one_member_that_reads_it(how, members, counts, seed):
    before = {(t, p): (seed >> p) % 7 + 1 for t, n in counts.items() for p in range(n)}
    assigned = assign(how, None, members, counts, before)
    reads = {member.number: member.topics for member in members}
    read = {topic for topics in reads.values() for topic in topics}
    assert set(assigned) == {(t, p) for t, n in counts.items() if t in read for p in range(n)}
    assert all(topic in reads[number] for (topic, _), number in assigned.items())


@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 7), st.integers(0, 7))
def test_sticky_is_even_and_moves_least(count, partitions, leave, join):
    members = [Subscriber(i + 1, ("t",)) for i in range(count)]
    before = sticky(members, {"t": partitions}, {})
    rest = [m for i, m in enumerate(members) if i != leave % count or count == 1]
    rest += [Subscriber(100 + i, ("t",)) for i in range(join)]
    after = sticky(rest, {"t": partitions}, before)
    held = Counter(after.values())
    sizes = [held[member.number] for member in rest]
    assert max(sizes) - min(sizes) <= 1
    stay = Counter(number for where, number in before.items() if number in {m.number for m in rest})
    quota = -(-partitions // len(rest))
    kept = sum(after[where] == before[where] for where in before)
    # What any even assignment must take from those who stay: all above the quota; below it, they keep at least the floor.
    assert kept >= sum(min(n, partitions // len(rest)) for n in stay.values())
    assert kept <= sum(min(n, quota) for n in stay.values())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"a": {"t": [0]}}, "leaves t"),
        ({"a": {"t": [0, 1]}, "b": {"t": [1]}}, "to two members"),
        ({"a": {"t": [0, 7]}}, "cannot read"),
        ({"x": {"t": [0, 1]}}, "cannot read"),
    ],
)
def test_a_wrong_answer_of_a_callable_is_refused(answer, told):
    with pytest.raises(seglog.ConfigError, match=told):
        assign("custom", lambda members, partitions: answer, two("t"), {"t": 2}, {})
