"""Every field of every node, over a link: the host checks none of these values, so the nodes do,
in one sentence; and what is linked passes while nothing is known of it.
"""

import asyncio
import math

import execution
import pytest
from comfy_api.latest import io
from comfyui_lora2.nodes import NODES
from comfyui_lora2.nodes.checking import DISK_LISTS

import nodes as hosts
from tests.reliability.fuzz import sockets
from tests.reliability.prompts import Prompts, Started, stopped_at_the_start

SCHEMAS = {node.define_schema().node_id: node.define_schema() for node in NODES}
NAN, INF = math.nan, math.inf
NAMES = ["../outside", "a\0b", "/etc/x", "x" * 999, "no/such\u202efile"]
PLACES = ("filename_prefix", "name", *DISK_LISTS)


class Any(str):
    """A type that fits every socket, as packs of switches and loops have it."""

    def __ne__(self, other):
        return False


def wrong(node: str, field: io.Input) -> list[object]:
    """What the host refuses when it is typed in, and what can't be typed in at all."""
    none = [] if field.optional or field.id == "lora_name" else [None]
    if isinstance(field, io.Int.Input):
        return [field.min - 1, field.max + 1, NAN, 2.5, "3", True, [4], *none]
    if isinstance(field, io.Float.Input):
        return [field.min - 1, field.max * 2, NAN, INF, -INF, 10**400, "0.5", True, [1.0], *none]
    if isinstance(field, io.Boolean.Input):
        return ["false", "", 0, 1, NAN, *none]
    if isinstance(field, io.Combo.Input):
        return ["no such", 0, NAN, ["a"], *none]
    if isinstance(field, io.String.Input):
        place = field.id in PLACES and node not in ("LoRA2Evaluate", "LoRA2StartOptions")
        return [3, NAN, True, ["a", 1], *(NAMES if place else []), *none]
    return []


FIELDS = [(name, field) for name, s in SCHEMAS.items() for field in s.inputs if wrong(name, field)]


@pytest.fixture(scope="module")
def drawn(nodes) -> Prompts:
    """Good values of every field."""
    return Prompts(nodes, sockets()[1], 1)


def run(prompts: Prompts, node: str, changes: dict) -> str:
    """What a node says to arguments that are good but for the changes."""
    schema = SCHEMAS[node]
    given = {f.id: prompts.good(f) for f in schema.inputs if not f.optional}
    given |= ({"prompts": "an owl"} if "prompts" in given else {}) | changes
    if schema.is_input_list:
        given = {k: [v] for k, v in given.items()}
    with stopped_at_the_start(), pytest.raises(ValueError) as caught:
        prompts.nodes[node].execute(**given)
    return str(caught.value)


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=lambda v: getattr(v, "id", v))
def test_a_wrong_value_is_refused_in_one_sentence_when_the_node_runs(drawn, name, field):
    for value in wrong(name, field):
        said = run(drawn, name, {field.id: value})
        assert said.endswith(".") and "\n" not in said and len(said) < 1000, (value, said)
        shown = repr(value)[:20].split()[0]
        assert field.id in said or shown in said, (value, said)


@pytest.fixture
def hosted(monkeypatch, nodes):
    """The pack's nodes in the host's table, and one whose output fits every input."""

    class Anything:
        RETURN_TYPES, FUNCTION, CATEGORY = (Any("*"),), "go", ""

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

    for name, node in {**nodes, "Anything": Anything}.items():
        monkeypatch.setitem(hosts.NODE_CLASS_MAPPINGS, name, node)


def refusals(name: str, inputs: dict) -> list[dict]:
    """What the host says to a node before anything runs."""
    prompt = {"any": {"class_type": "Anything", "inputs": {}}}
    prompt["it"] = {"class_type": name, "inputs": inputs}
    good, errors, _ = asyncio.run(execution.validate_inputs("test", prompt, "it", {}))
    assert good is not bool(errors)
    return errors


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_is_linked_passes_until_it_is_known(hosted, name):
    assert not refusals(name, {field.id: ["any", 0] for field in SCHEMAS[name].inputs})


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_missing_is_told_by_the_host_alone(hosted, name):
    linked = {field.id: ["any", 0] for field in SCHEMAS[name].inputs}
    for field in SCHEMAS[name].inputs:
        left = {k: v for k, v in linked.items() if k != field.id}
        told = [(e["type"], e["details"]) for e in refusals(name, left)]
        assert told == ([] if field.optional else [("required_input_missing", field.id)])


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_typed_in_is_refused_before_anything_runs(hosted, name):
    """By the host's own ranges and lists, but where a node looks itself."""
    linked = {field.id: ["any", 0] for field in SCHEMAS[name].inputs}
    for field in SCHEMAS[name].inputs:
        if isinstance(field, (io.Int.Input, io.Float.Input)):
            values = [field.min - 1, field.max + 1]
        elif isinstance(field, io.Combo.Input) and field.id not in DISK_LISTS:
            values = ["no such"]
        elif field.id == "filename_prefix":
            values = NAMES
        else:
            continue
        for value in values:
            told = [e["details"] for e in refusals(name, linked | {field.id: value})]
            # the host says a sentence of ours under every input that the node looks at itself
            assert told and all(field.id in each for each in told)


def test_what_comes_after_a_training_is_checked_before_it(nodes):
    """The adapter is asked for only when the linked fields are good."""
    for name, given in {
        "LoRA2Save": {"max_mb": NAN, "format": "zip", "filename_prefix": "../x"},
        "LoRA2Report": {"save": "false", "filename_prefix": "../x"},
    }.items():
        node = nodes[name]
        for key, value in given.items():
            with pytest.raises(ValueError, match=key):
                node.check_lazy_status(lora2=None, **{key: value})
        assert node.check_lazy_status(lora2=None, filename_prefix="lora2/a") == ["lora2"]
        assert node.check_lazy_status(lora2="there", filename_prefix="lora2/a") == []


def test_a_good_value_is_taken(drawn, nodes):
    with stopped_at_the_start(), pytest.raises(Started):
        given = {f.id: [drawn.good(f)] for f in SCHEMAS["LoRA2Train"].inputs if not f.optional}
        nodes["LoRA2Train"].execute(**given)
    (options,) = nodes["LoRA2OptimizerOptions"].execute(beta1=0.5, schedule="cosine").result
    assert options == {
        "beta1": 0.5,
        "schedule": "cosine",
        "optimizer_args": "",
        "loraplus_lr_ratio": 1.0,
    }
