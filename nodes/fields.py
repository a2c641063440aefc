"""What a node's fields may hold, checked when it runs: the host looks at values that are typed in,
not at those that come over a link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, signature

from comfy_api.latest import io

from ..lora2_core.checks import check_choice, check_range, check_text
from ..lora2_core.paths import quoted

# lists of what lies on the disk, which changes: their nodes look there
FOUND_ON_DISK = ("lora_name", "folder", "resume", "clip_folder", "dino_folder")


def check_field(field: io.Input, value: object) -> None:
    """Raises ValueError in one sentence unless the field takes the value; sockets take any here."""
    if isinstance(field, (io.Int.Input, io.Float.Input)):
        integer = isinstance(field, io.Int.Input)
        check_range(field.id, value, field.min, field.max, integer=integer)
    elif isinstance(field, io.Boolean.Input):
        if not isinstance(value, bool):
            raise ValueError(f"{field.id} is {quoted(value)}: give true or false.")
    elif isinstance(field, io.String.Input):
        check_text(field.id, value)
    elif isinstance(field, io.Combo.Input) and field.id not in FOUND_ON_DISK:
        check_choice(field.id, value, tuple(field.options))


def check_fields(node: type[io.ComfyNode], given: Mapping[str, object]) -> None:
    """Raises ValueError unless a node takes what it is given by name, as its `validate_inputs` says
    too. Of lists, where the node takes them, every entry is checked.
    """
    schema = node.SCHEMA or node.define_schema()  # the host has made it: no folder is read again
    for field in schema.inputs:
        if field.id not in given:
            continue
        value = given[field.id]
        lists = schema.is_input_list and isinstance(value, (list, tuple))
        for each in value if lists else [value]:
            check_field(field, each)
    if node.validate_inputs.__func__ is not io.ComfyNode.validate_inputs.__func__:
        named = signature(node.validate_inputs).parameters
        answer = node.validate_inputs(**{name: given.get(name) for name in named})
        if answer is not True:
            raise ValueError(answer)


def checked(execute: Callable) -> Callable:
    """Wraps a node's `execute`: all its fields are checked first. None passes where it is the
    default, since nothing is connected there.
    """
    form = signature(execute)
    unconnected = {name for name, p in form.parameters.items() if p.default is None}
    others = {name for name, p in form.parameters.items() if p.kind is Parameter.VAR_KEYWORD}

    @wraps(execute)
    def run(node: type[io.ComfyNode], *args: object, **named: object) -> io.NodeOutput:
        given = dict(form.bind_partial(node, *args, **named).arguments)
        for name in others:
            given |= given.pop(name, {})
        given = {k: v for k, v in given.items() if v is not None or k not in unconnected}
        check_fields(node, given)
        return execute(node, *args, **named)

    return run


class CheckedFirst:
    """A node that comes after a training: its fields are checked before the training begins, also
    those that are linked. The inputs that may come from one are lazy, and asked for afterwards.
    """

    @classmethod
    def check_lazy_status(cls, **given: object) -> list[str]:
        """Returns the inputs that are connected and not computed yet."""
        check_fields(cls, {name: value for name, value in given.items() if value is not None})
        return [name for name, value in given.items() if value is None]
