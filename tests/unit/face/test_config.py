"""Settings: each has a range, a frozen home, and a way to the topology log and back."""

import dataclasses

import pytest

import seglog
from seglog.config import StoreConfig, TopicConfig

BAD_STORE = {
    "fsync": ["sometimes", None, True, ["always"]],
    "fsync_interval": [0, -1, 1e9, "1"],
    "segment_bytes": [0, 65_535, 1 << 40, 1e6, "1 MiB", True],
    "recover": ["ignore", None],
    "write": ["mmap", None],
    "upkeep": [1, None],
    "lock_timeout": [0, 1e12],
}
BAD_TOPIC = {
    "partitions": [0, -1, 4097, 1.0, "4", True],
    "segment_bytes": [1, 1 << 40],
    "segment_age": [0, -5],
    "codec": ["gzip", 7],
    "partitioner": ["md5", 7],
    "record_bytes_max": [0, 1 << 40],
    "batch_bytes": [1, 1 << 40],
}


def each(bad):
    return [pytest.param(name, value, id=f"{name}={value!r}") for name in bad for value in bad[name]]


@pytest.mark.parametrize(("setting", "value"), each(BAD_STORE))
def test_a_store_setting_out_of_range_is_refused_by_name(setting, value):
    with pytest.raises(seglog.ConfigError, match=f"^{setting} is ") as caught:
        StoreConfig(**{setting: value})
    assert (caught.value.setting, caught.value.value) == (setting, value)


@pytest.mark.parametrize(("setting", "value"), each(BAD_TOPIC))
def test_a_topic_setting_out_of_range_is_refused_and_no_topic_is_made(store, setting, value):
    with pytest.raises(seglog.ConfigError, match=f"^{setting} is ") as caught:
        store.topic("orders", **{setting: value})
    assert caught.value.setting == setting
    assert store.topics() == []


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TopicConfig().partitions = 2


def test_a_topic_config_survives_its_way_through_json():
    config = TopicConfig(partitions=3, segment_bytes=1 << 20, segment_age=60.0, codec="zstd", partitioner="murmur2")
    assert TopicConfig.from_json(config.to_json()) == config


def test_settings_that_an_older_seglog_did_not_know_have_their_defaults():
    assert TopicConfig.from_json({"partitions": 2}) == TopicConfig(partitions=2)


def test_settings_that_this_seglog_does_not_know_are_not_ignored():
    with pytest.raises(seglog.UnsupportedFormat, match="do not know|does not know: teleport"):
        TopicConfig.from_json({"partitions": 2, "teleport": True}, "orders")


def test_every_field_says_what_it_means_and_why():
    import ast
    import inspect

    from seglog import config

    tree = ast.parse(inspect.getsource(config))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            pairs = zip(node.body, node.body[1:], strict=False)
            silent = [a.target.id for a, b in pairs if isinstance(a, ast.AnnAssign) and not isinstance(b, ast.Expr)]
            assert silent == []
