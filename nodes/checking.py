"""Checks the values of a node's fields when the node runs. The host checks values that a user
types, but not values that come over a link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, signature

from comfy_api.latest import io

from ..lora2_core.checks import check_choice, check_range, check_text
from ..lora2_core.paths import quoted

# Fields that list files and folders. The disk may have changed since the list was made, so each
# node looks on the disk itself.
DISK_LISTS = (
    "lora_name", "folder", "resume", "clip_folder", "dino_folder", "preset", "model_file",
    "base_file", "lora_folder", "source_folder",
)  # fmt: skip


def check_field(field: io.Input, value: object) -> None:
    """Raises ValueError with one sentence unless the value is allowed in the field. Any value is
    allowed in a socket here, since its node checks it.
    """
    if isinstance(field, (io.Int.Input, io.Float.Input)):
        integer = isinstance(field, io.Int.Input)
        check_range(field.id, value, field.min, field.max, integer=integer)
    elif isinstance(field, io.Boolean.Input):
        if not isinstance(value, bool):
            raise ValueError(f"{field.id} is {quoted(value)}: give true or false.")
    elif isinstance(field, io.String.Input):
        check_text(field.id, value)
    elif isinstance(field, io.Combo.Input):
        if field.id not in DISK_LISTS:
            check_choice(field.id, value, tuple(field.options))
        elif default_of(field) is not None:
            check_text(field.id, value)


def schema_of(node: type[io.ComfyNode]) -> io.Schema:
    """Returns the schema of a node. If the host has made one already, it is used, so that no folder
    is read again.
    """
    return node.SCHEMA or node.define_schema()


def default_of(field: io.Input) -> object:
    """Returns the default of a field, None for a socket."""
    return getattr(field, "default", None)


def check_fields(node: type[io.ComfyNode], given: Mapping[str, object]) -> None:
    """Raises ValueError unless all given values are allowed: each in its field, and all of them by
    the node's `validate_inputs`. If a node's inputs arrive as lists, every item is checked. None
    stands for an input that is not connected.
    """
    schema = schema_of(node)
    for field in schema.inputs:
        value = given.get(field.id)
        unconnected = value is None and field.optional and default_of(field) is None
        if field.id not in given or unconnected:
            continue
        is_list = schema.is_input_list and isinstance(value, (list, tuple))
        for each in value if is_list else [value]:
            check_field(field, each)
    if node.validate_inputs.__func__ is not io.ComfyNode.validate_inputs.__func__:
        names = signature(node.validate_inputs).parameters
        answer = node.validate_inputs(**{name: given.get(name) for name in names})
        if answer is not True:
            raise ValueError(answer)


def checked(execute: Callable) -> Callable:
    """Wraps a node's `execute` so that all fields of the node are checked before it runs."""
    form = signature(execute)
    open_ended = [n for n, p in form.parameters.items() if p.kind is Parameter.VAR_KEYWORD]

    @wraps(execute)
    def run(node: type[io.ComfyNode], *args: object, **named: object) -> io.NodeOutput:
        given = dict(form.bind_partial(node, *args, **named).arguments)
        for name in open_ended:
            given |= given.pop(name, {})
        check_fields(node, given)
        return execute(node, *args, **named)

    return run


def validated(*checks: tuple[Callable[[object], object], object]) -> bool | str:
    """Runs checks and returns what a node's `validate_inputs` returns: True, or the sentence of the
    first ValueError.

    checks: pairs of a check and its value. A value of None is not checked: it comes over a link and
        is not known yet.
    """
    for check, value in checks:
        try:
            if value is not None:
                check(value)
        except ValueError as error:
            return str(error)
    return True


class CheckedFirst:
    """Makes a node that comes after a training check its fields before the training begins, also
    fields with a link. Inputs that may come from the training must be lazy: the host is asked for
    them only after this check.
    """

    @classmethod
    def check_lazy_status(cls, **given: object) -> list[str]:
        """Checks the values that are known, and returns the inputs that are connected and not
        computed yet.
        """
        check_fields(cls, {name: value for name, value in given.items() if value is not None})
        return [name for name, value in given.items() if value is None]
