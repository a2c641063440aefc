"""The cache on disk: what is read is what was written, or nothing."""

import os

import pytest
import torch

from lora2_core.dataset.cache import Cache, key_of

TENSORS = {
    "half": torch.randn(2, 3).half(),
    "turned": torch.randn(3, 2).T,
    "brain": torch.ones(2, dtype=torch.bfloat16),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
}


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "cache")


def test_what_is_read_is_what_was_written(cache):
    key = key_of("a", 1)
    assert cache.read(key) is None
    cache.write(key, TENSORS)
    found = cache.read(key)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in TENSORS.items())


def test_keys_tell_facts_apart():
    facts = [("a", 1), ("a", "1"), ("a1",), ("a", 1, None), ("a", {"x": 1}), ("a", {"x": 2})]
    assert len({key_of(*f) for f in facts}) == len(facts)


def test_damage_anywhere_is_seen(cache, caplog):
    key = key_of("a")
    cache.write(key, TENSORS)
    data = cache.path(key).read_bytes()
    for place in range(len(data)):
        cache.path(key).write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        found = cache.read(key)
        same = found is not None and all(torch.equal(found[k], v) for k, v in TENSORS.items())
        assert found is None or same, place
    for length in (0, 5, 100, len(data) - 1):
        cache.path(key).write_bytes(data[:length])
        assert cache.read(key) is None
    assert "is damaged: made again" in caplog.text


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "cache")
    cache.write("ab", TENSORS)
    assert "can't be written" in caplog.text
    assert cache.read("ab") is None
    cache.trim()


def test_the_least_recently_used_go_first(tmp_path):
    cache = Cache(tmp_path, most_bytes=0)
    keys = [key_of(i) for i in range(4)]
    for age, key in enumerate(keys):
        cache.write(key, {"x": torch.zeros(100)})
        os.utime(cache.path(key), ns=(age + 1, age + 1))
    size = cache.path(keys[0]).stat().st_size
    cache.most_bytes = 2 * size
    assert cache.read(keys[0]) is not None  # used now
    cache.trim()
    assert [cache.path(k).exists() for k in keys] == [True, False, False, True]
    cache.most_bytes = 0
    cache.trim()
    assert not any(cache.path(k).exists() for k in keys)
