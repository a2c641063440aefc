"""Holds what all option nodes share. Each lists its fields; their values become settings of a run.

Option nodes are chained through their input `options` and end in that of LoRA2 Train. A chain is a
dict from the name of a setting to its value. If two nodes give one setting, the later node's
counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from comfy_api.latest import io

from ..checking import checked, default_of, schema_of
from ..sockets import CATEGORY, Lora2Options, check_options, first

# values of a field that stand for "the mode's own value", in a list and in a number field
AUTO = "auto"
OWN = -1.0


def chain(tooltip: str = "If both give a value, this node's counts.") -> io.Input:
    """Makes the socket for the option node that comes before this one in the chain."""
    return Lora2Options.Input("options", optional=True, tooltip=f"Another option node. {tooltip}")


class OptionsNode(io.ComfyNode):
    """The base of all option nodes. A subclass gives its name and texts, lists its inputs in
    `fields`, and may set:

    takes_lists: whether its inputs arrive as lists, as in LoRA2 Train.
    renamed: input -> setting, for inputs whose setting has another name.
    of_before: optional input -> its value where an older workflow lacks it, if not its default.
    modes_own: inputs whose default stands for the mode's own value. Such a default is stored as
        None, so that a later node can go back to the mode's own value.
    """

    node_id: str
    title: str
    description: str
    aliases: list[str]
    takes_lists = False
    renamed: Mapping[str, str] = {}
    of_before: Mapping[str, object] = {}
    modes_own: Collection[str] = ()

    @classmethod
    def fields(cls) -> list[io.Input]:
        """Returns the inputs in the order in which the node shows them, with `chain()`."""
        raise NotImplementedError

    @classmethod
    def settings(cls, **values: object) -> dict:
        """Returns the settings that the values of the inputs stand for."""
        defaults = {field.id: default_of(field) for field in schema_of(cls).inputs}
        own = [name for name in cls.modes_own if name in values and values[name] == defaults[name]]
        values |= dict.fromkeys(own)
        return {cls.renamed.get(name, name): value for name, value in values.items()}

    @classmethod
    def extended(cls, chain: dict, values: Mapping[str, object]) -> dict:
        """Returns a copy of a chain in which this node's settings replace earlier ones."""
        return chain | cls.settings(**values)

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the schema of the node: its fields, and the chain as its only output."""
        return io.Schema(
            node_id=cls.node_id,
            display_name=f"{CATEGORY} {cls.title}",
            category=CATEGORY,
            description=cls.description,
            search_aliases=cls.aliases,
            is_input_list=cls.takes_lists,
            inputs=cls.fields(),
            outputs=[Lora2Options.Output(display_name="options")],
        )

    @classmethod
    @checked
    def execute(cls, options=None, **given) -> io.NodeOutput:
        """Adds the node's settings to the chain. An optional field that an older workflow lacks
        gets its default, or that of `of_before`. An input that is not connected gives no setting.
        """
        values = {}
        for field in schema_of(cls).inputs:
            default = default_of(field)
            lacking = cls.of_before.get(field.id, default) if field.optional else None
            value = given.get(field.id, lacking)
            if cls.takes_lists and field.id in given and default is not None:
                value = first(field.id, value)
            if value is not None:
                values[field.id] = value
        if cls.takes_lists:
            options = (options or [None])[0]
        return io.NodeOutput(cls.extended(check_options(options), values))
