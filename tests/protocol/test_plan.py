"""The plan, the layout of the data and the table, without a host."""

import json
import os

import pytest

from lora2_core.protocol.dreambooth import read_list, read_subjects
from lora2_core.protocol.plan import PRESETS, Plan, trials
from lora2_core.protocol.report import write_report
from lora2_core.protocol.table import Table
from tests.protocol.data import write_data

METHODS = {"no adapter": None, "LoRA 4": {"mode": "fixed", "target_rank": 4}}
TEXT = """Classes

subject_name,class
backpack_dog,backpack
cat2,cat
bear plushie,stuffed animal

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
"a {0} {1}'s shadow".format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} wearing a red hat'.format(unique_token, class_token)
]
"""


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data", ("owl", "fox"), 2)


def plan(**changes) -> Plan:
    return Plan(**{"methods": METHODS, "resolution": 32} | changes)


def test_the_list_is_read_as_dreambooth_writes_it(tmp_path):
    classes, prompts, live = read_list(TEXT)
    assert classes == {
        "backpack_dog": "backpack", "cat2": "cat", "bear plushie": "stuffed animal"
    }  # fmt: skip
    assert prompts == ["a {0} {1} in the jungle", "a {0} {1}'s shadow"]
    assert live == ["a {0} {1} wearing a red hat"]
    (tmp_path / "prompts_and_classes.txt").write_text(TEXT)
    for name in ("backpack_dog", "cat2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "00.jpg").write_bytes(b"x")
    backpack, cat = read_subjects(tmp_path)
    assert backpack.prompts("sks", 9)[0] == "a sks backpack in the jungle"
    assert cat.prompts("sks", 9) == ["a sks cat wearing a red hat"]
    assert len(backpack.prompts("sks", 1)) == 1


@pytest.mark.parametrize(
    ("only", "sentence"), [(["cow"], "no folder 'cow'"), (["bare"], "no line 'bare,class'")]
)
def test_unknown_subjects_are_named(data, only, sentence):
    (data / "bare").mkdir()
    (data / "bare" / "0.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=sentence):
        read_subjects(data, only)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no prompts_and_classes.txt"):
        read_subjects(tmp_path)
    (tmp_path / "prompts_and_classes.txt").write_text("Classes\nowl,owl\n")
    with pytest.raises(ValueError, match="has no prompts"):
        read_subjects(tmp_path)


def test_every_preset_is_a_plan():
    names = sorted(path.stem for path in PRESETS.glob("*.json"))
    assert names == ["koala", "playground", "sdxl"]
    for name in names:
        read = Plan.read(name, images=3)
        assert read.images == 3 and None in read.methods.values() and len(read.methods) > 4


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"methods": METHODS, "stepz": 3}, "'stepz', which no plan has"),
        ({"methods": {}}, "no methods"),
        ({"methods": METHODS, "sampling": {"cgf": 1}}, "sampling has 'cgf'"),
        ({"methods": {"x": 3}}, "Method 'x' is 3"),
        ({"methods": METHODS, "images": 0}, "images is 0"),
    ],
)
def test_a_faulty_plan_is_refused(tmp_path, told, sentence):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=sentence):
        Plan.read(str(path))


def test_a_plan_that_is_no_file_is_named():
    with pytest.raises(ValueError, match="'sdlx' can't be read.*koala, playground, sdxl"):
        Plan.read("sdlx")


def test_a_trial_is_the_same_until_something_that_it_depends_on_changes(data):
    subjects = read_subjects(data)
    first = trials(plan(), subjects)
    assert len(first) == len(set(first)) == 4
    assert trials(plan(seeds=(0, 7)), subjects)[:4] == first, "more seeds repeat nothing"
    more = METHODS | {"LoRA 8": {"mode": "fixed"}}
    assert set(first) < set(trials(plan(methods=more), subjects))
    assert not set(first) & set(trials(plan(images=4), subjects))
    trained = {t for t in first if t.method == "LoRA 4"}
    changed = set(trials(plan(training={"steps": 3}), subjects))
    assert first and not trained & changed and len(set(first) & changed) == 2
    (data / "owl" / "00.png").write_bytes(b"other")
    again = trials(plan(), read_subjects(data))
    assert {t.subject for t in set(first) & set(again)} == {"fox"}


def test_a_trial_knows_encoders_by_what_they_are_not_by_where_they_lie(data, tmp_path):
    subjects = read_subjects(data)
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    here, there = (trials(plan(dino_folder=str(folder)), subjects) for folder in folders)
    assert here == there and not set(here) & set(trials(plan(), subjects))
    (folders[1] / "model.safetensors").write_bytes(b"other weights")
    assert not set(here) & set(trials(plan(dino_folder=str(folders[1])), subjects))


def test_shortened_keeps_what_is_shorter():
    short = plan(methods=METHODS | {"x": {"steps": 2}}, training={"steps": 50}).shortened(9)
    assert [short.choices(m) and short.choices(m)["steps"] for m in short.methods] == [None, 9, 2]


ROW = {"megabytes": 1.5, "dino": 0.5, "clip_i": 0.25, "clip_t": None}


def test_the_table_survives_a_crash_at_every_byte(data, tmp_path):
    wanted = trials(plan(), read_subjects(data))
    path = tmp_path / "out" / "trials.csv"
    table = Table(path)
    for trial in wanted[:3]:
        table.add(trial, ROW)
    whole = path.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        again = Table(path)
        lines = sum(end < size for end in ends)
        assert again.missing(wanted) == wanted[max(0, lines - 1) :]
        again.add(wanted[3], ROW)
        assert len(Table(path).rows) == max(0, lines - 1) + 1
        assert all(
            row["dino"] == 0.5 and row["clip_t"] is None for row in Table(path).rows.values()
        )


def test_a_foreign_table_is_left_alone(tmp_path):
    path = tmp_path / "trials.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no table of this protocol"):
        Table(path)
    assert path.read_text() == "a,b\n1,2\n"


def test_the_report_takes_the_mean_over_seeds_then_subjects(data, tmp_path):
    few = plan(seeds=(0, 1), prompts=3)
    wanted = trials(few, read_subjects(data))
    table = Table(tmp_path / "trials.csv")
    assert "No trial" in write_report(few, table, wanted, tmp_path)
    values = {("owl", 0): 0.2, ("owl", 1): 0.4, ("fox", 0): 0.9}  # fox, seed 1 is not finished
    for trial in wanted:
        if (value := values.get((trial.subject, trial.seed))) is not None:
            size = 0.0 if trial.method == "no adapter" else 2.0
            table.add(trial, {"megabytes": size, "dino": value, "clip_i": 0.1})
    text = write_report(few, table, wanted, tmp_path)
    assert "| no adapter | 0.00 | **0.6000 ± 0.4243** |" in text and "6 of 8 trials" in text
    assert "CLIP-T" not in text and "Not to be compared" not in text
    half = {t: row for t, row in table.rows.items() if t != wanted[0]}
    table.rows, whole = half, table.rows
    assert "Not to be compared yet" in write_report(few, table, wanted, tmp_path)
    table.rows = whole
    for name in ("report.md", "score_against_size.png", "subjects.png"):
        assert os.stat(tmp_path / name).st_size > 300
