"""The attention loss is the entropy of softmax(q k^T scale), averaged."""

import math

import pytest
import torch

from lora2_core import EntropyRecord, attention_entropy


def naive(q: torch.Tensor, k: torch.Tensor, scale: float) -> float:
    """One query at a time, with Python's own exp and log."""
    entropies = []
    for queries, keys in zip(q.flatten(0, -3), k.flatten(0, -3), strict=True):
        for query in queries:
            weights = [math.exp(scale * float(query @ key)) for key in keys]
            shares = [w / sum(weights) for w in weights]
            entropies.append(-sum(p * math.log(p) for p in shares))
    return sum(entropies) / len(entropies)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (6, 5, 4), (1, 1, 1, 8)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_equals_the_naive_loop(shape: tuple, scale: float | None):
    torch.manual_seed(0)
    q, k = torch.randn(shape), torch.randn(*shape[:-2], 7, shape[-1])
    expected = naive(q, k, shape[-1] ** -0.5 if scale is None else scale)
    assert float(attention_entropy(q, k, scale)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("keys", [1, 2, 77])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_even_attention_gives_log_keys_the_most_there_is(keys: int, dtype: torch.dtype):
    q, same = torch.randn(2, 4, 9, 8).to(dtype), torch.ones(2, 4, keys, 8, dtype=dtype)
    assert float(attention_entropy(q, same)) == pytest.approx(math.log(keys), abs=1e-5)
    other = torch.randn(2, 4, keys, 8)
    assert float(attention_entropy(q, other)) <= math.log(keys) + 1e-5


def test_attention_to_one_key_gives_zero_and_finite_gradients():
    q = torch.full((1, 2, 4), 100.0, requires_grad=True)
    k = torch.tensor([[[1.0] * 4, [-1.0] * 4]])
    entropy = attention_entropy(q, k)
    entropy.backward()
    assert entropy.item() == 0
    assert torch.isfinite(q.grad).all()


def test_a_record_averages_its_calls_and_starts_over():
    torch.manual_seed(0)
    record, calls = EntropyRecord(), [(torch.randn(2, 3, 4), torch.randn(2, n, 4)) for n in (2, 9)]
    for q, k in calls:
        record.record(q, k)
    expected = sum(float(attention_entropy(q, k)) for q, k in calls) / 2
    assert float(record.take()) == pytest.approx(expected)
    assert float(record.take()) == 0
