"""Jobs: files of trainings, read and checked before anything is loaded."""

import json
from pathlib import Path

import pytest

from lora2_core.protocol.job import Job, with_name
from lora2_core.protocol.json_file import parsed
from lora2_core.protocol.train import table

GOOD = {"checkpoint": "playground", "folders": ["owl", "deep/fox"], "train": {"steps": 3}}


@pytest.fixture
def place(tmp_path) -> Path:
    for name in ("owl", "deep/fox"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").write_bytes(b"picture")
    return tmp_path


def written(place: Path, **changes) -> str:
    (place / "job.json").write_text(json.dumps(GOOD | changes))
    return str(place / "job.json")


def test_json_and_toml_say_the_same(place):
    pytest.importorskip("tomllib")
    (place / "job.toml").write_text(
        'checkpoint = "playground"\nfolders = ["owl", "deep/fox"]\n[train]\nsteps = 3\n'
    )
    assert Job.read(str(place / "job.toml")) == Job.read(written(place)) == Job(
        ("owl", "deep/fox"), checkpoint="playground", train={"steps": 3}
    )  # fmt: skip
    assert parsed(place / "job.toml") == GOOD


def test_names_are_those_of_the_folders_or_given(place):
    job = Job.read(written(place))
    assert [(s.name, s.folder.name) for s in job.subjects(place)] == [
        ("owl", "owl"),
        ("fox", "fox"),
    ]
    job = Job.read(written(place, names=["a", "b"]))
    assert [s.name for s in job.subjects(place)] == ["a", "b"]
    assert with_name({"caption": "a {name}", "n": 3, "l": ["{name}"]}, "owl") == {
        "caption": "a owl", "n": 3, "l": ["owl"],
    }  # fmt: skip


def test_an_adapter_is_done_again_where_something_that_it_depends_on_changes(place):
    job = Job.read(written(place))
    owl, fox = job.subjects(place)
    mark = job.fingerprint(owl)
    assert job.fingerprint(fox) != mark == Job.read(written(place)).fingerprint(owl)
    for same in ({"prompts": ["a"]}, {"save": {"dtype": "bf16"}}, {"checkpoint_every": 7}):
        assert Job.read(written(place, **same)).fingerprint(owl) == mark
    for other in ({"train": {"steps": 4}}, {"epochs": 2}, {"dataset": {"flip": True}}):
        assert Job.read(written(place, **other)).fingerprint(owl) != mark
    (owl.folder / "1.png").write_bytes(b"another")
    assert job.fingerprint(owl) != mark


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"folders": []}, "has no folders"), ({"folders": "owl"}, "folders is 'owl': give a list"),
        ({"folders": ["owl", 3]}, "folders is .*: give texts"),
        ({"names": ["a"]}, "2 folders but 1 names"), ({"checkpoint": ""}, "needs checkpoint, or"),
        ({"vae": "v"}, "needs checkpoint, or"), ({"train": []}, "train is \\[\\]: give names"),
        ({"checkpoint": "", "vae": "v"}, "belong together"), ({"colour": 1}, "has 'colour', which"),
        ({"text_encoder": "yes"}, "text_encoder is 'yes': give true or false"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
    ],
)  # fmt: skip
def test_a_wrong_job_is_one_sentence(place, changes: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence) as error:
        Job.read(written(place, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"folders": ["gone"]}, "There is no folder 'gone'"),
        ({"names": ["a", "A"]}, "Two adapters would be called 'A'"),
        ({"names": ["../a", "b"]}, "can't be that of a file"),
        ({"names": ["a/b", "b"]}, "can't be that of a file: it has folders"),
        ({"names": ["con", "b"]}, "can't be that of a file: con is a device"),
    ],
)
def test_wrong_folders_and_names_are_one_sentence(place, changes: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        Job.read(written(place, **changes)).subjects(place)


def test_a_file_that_is_none_is_one_sentence(place):
    for text, name in (("{", "a.json"), ("[1]", "b.json"), ("= 3", "c.toml")):
        (place / name).write_text(text)
        with pytest.raises(ValueError, match="can't be read|is no JSON object|TOML needs"):
            Job.read(str(place / name))
    with pytest.raises(ValueError, match="can't be read"):
        Job.read(str(place / "gone.json"))


def test_the_table():
    facts = {"megabytes": 0.1712, "mean_rank": 4.0, "loss": 0.12345, "steps": 300, "seconds": 61.7}
    assert table({"owl": facts}).splitlines() == [
        "| adapter | MB | mean rank | loss | steps | seconds |",
        "|---|--:|--:|--:|--:|--:|",
        "| owl | 0.1712 | 4 | 0.1235 | 300 | 61.7 |",
    ]
