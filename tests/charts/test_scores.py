"""Scores against plain loops; what cannot be judged is named."""

import math

import numpy as np
import pytest
import torch

from lora2_core.charts.score_chart import Scored, score_chart, score_csv, score_table
from lora2_core.charts.scores import Encoders, Judge, Score, by_prompt, cosines


def flat(images: torch.Tensor) -> torch.Tensor:
    """Mean colour of each half: a feature that any size of picture has."""
    left, right = images.tensor_split(2, dim=2)
    return torch.cat([left.mean((1, 2)), right.mean((1, 2)) ** 2], dim=1)


def words(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[len(t), t.count("a"), 1.0, 0.5, t.count(" "), 2.0] for t in texts])


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double().tolist(), b.double().tolist()
    norm = math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm


def pictures(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.rand(count, size, size + 2, 3, generator=torch.Generator().manual_seed(seed))


def test_scores_are_the_mean_over_all_pairs():
    references = [pictures(3, 8, 0), pictures(2, 12, 1)]
    drawn, prompt = [pictures(20, 8, 2), pictures(1, 9, 3)], "a red cat"
    score = Judge(Encoders(flat, flat, words), references).of_prompt(drawn, prompt)
    seen = [row for batch in drawn for row in flat(batch)]
    real = [row for batch in references for row in flat(batch)]
    image = np.mean([cosine(a, b) for a in seen for b in real])
    text = np.mean([cosine(a, words([prompt])[0]) for a in seen])
    assert score.dino == pytest.approx(image, abs=1e-12)
    assert score.clip_i == pytest.approx(image, abs=1e-12)
    assert score.clip_t == pytest.approx(text, abs=1e-12)


def test_a_picture_is_like_itself_and_its_negative_is_not():
    row = torch.randn(1, 16)
    assert float(cosines(row, row)) == pytest.approx(1)
    assert float(cosines(row, -row)) == pytest.approx(-1)
    assert float(cosines(row, torch.zeros(1, 16))) == 0, "no direction, no likeness, no NaN"


def test_the_mean_is_over_prompts_however_many_pictures_each_has():
    scores = [Score(0.2, None, 0.5), Score(0.4, None, 0.1)]
    assert Score.mean(scores) == Score(pytest.approx(0.3), None, pytest.approx(0.3))
    assert Score.mean([]) == Score()


def test_images_are_shared_out_in_the_order_of_the_prompts():
    images = pictures(6, 4, 0)
    for batches in ([images], list(images.split(1)), [images[:4], images[4:]]):
        (first, a), (second, b) = by_prompt(batches, ["one", "two"])
        assert (first, second) == ("one", "two")
        assert torch.equal(torch.cat(a), images[:3]) and torch.equal(torch.cat(b), images[3:])


@pytest.mark.parametrize(
    ("images", "prompts", "sentence"),
    [(5, ["a", "b"], "5 images can't be shared"), (1, ["a", "b"], "1 images"), (2, [], "is empty")],
)
def test_uneven_shares_are_refused(images, prompts, sentence):
    with pytest.raises(ValueError, match=sentence):
        by_prompt([pictures(images, 4, 0)], prompts)


def test_nothing_to_judge_with_is_said():
    with pytest.raises(ValueError, match="no encoder"):
        Encoders()
    with pytest.raises(ValueError, match="none of pictures"):
        Encoders(dino=flat, text=words)
    with pytest.raises(ValueError, match="no pictures of the subject"):
        Judge(Encoders(flat), [])


ENTRIES = [
    Scored("no adapter", 0, Score(0.3, 0.5, 0.33)),
    Scored("a | $rank$ 8", 1.5, Score(0.6, 0.75, 0.25), Score(0.05, 0.01, 0.02)),
    Scored("adaptive", 0.75, Score(0.62, 0.7, None)),
]


def test_the_table_has_a_row_each_and_marks_the_best():
    lines = score_table(ENTRIES).splitlines()
    assert lines[0] == "| | MB | DINO | CLIP-I | CLIP-T |" and len(lines) == 5
    assert lines[2] == "| no adapter | 0.00 | 0.3000 | 0.5000 | **0.3300** |"
    assert lines[3].startswith("| a $rank$ 8 | 1.50 | 0.6000 ± 0.0500 | **0.7500 ± 0.0100**")
    assert lines[4] == "| adaptive | 0.75 | **0.6200** | 0.7000 | – |"


def test_the_csv_leaves_empty_what_was_not_measured():
    lines = score_csv(ENTRIES).splitlines()
    assert lines[0] == "name,megabytes,dino,clip_i,clip_t"
    assert lines[3] == "adaptive,0.75,0.62,0.7,"


def test_the_chart_has_a_panel_for_every_metric():
    whole = score_chart(ENTRIES)
    assert whole.dtype == np.uint8 and whole.ndim == 3 and whole.std() > 10
    one = score_chart([Scored("a", None, Score(dino=0.4)), Scored("b", 200.0, Score(dino=0.5))])
    assert one.shape[1] < whole.shape[1] / 2
    assert len(np.unique(one.reshape(-1, 3), axis=0)) > 100


def test_what_has_no_known_size_is_a_line_across_all_sizes():
    """At one place it would say that it has the size there."""
    known = [Scored("a", 100.0, Score(dino=0.5)), Scored("b", 200.0, Score(dino=0.6))]
    chart = score_chart([Scored("unknown", None, Score(dino=0.4)), *known])
    first = np.array([0x1F, 0x5F, 0xBF])  # colour of the first entry
    of_it = (np.abs(chart.astype(int) - first).max(axis=2) < 12)[:-60]  # without the legend
    across = np.flatnonzero(of_it.any(axis=0))
    assert len(across) > 0.4 * chart.shape[1] and np.ptp(across) > 0.7 * chart.shape[1]
    assert np.ptp(np.flatnonzero(of_it.any(axis=1))) < 5, "at one height"
