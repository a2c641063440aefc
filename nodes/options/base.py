"""What all option nodes share: a node lists its fields, and their values become settings of a run.

Option nodes are chained through their input `options` and end in that of LoRA2 Train. A chain is a
dict from the name of a setting to its value; a node later in the chain wins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from comfy_api.latest import io

from ..checking import checked, default_of, schema_of
from ..sockets import CATEGORY, Lora2Options, check_options, first

AUTO = "auto"  # of a list
OWN = -1.0  # of a number


def chain(tooltip: str = "This node's values win.") -> io.Input:
    """Makes the socket for the option nodes that come before this one."""
    return Lora2Options.Input("options", optional=True, tooltip=f"Another option node. {tooltip}")


class OptionsNode(io.ComfyNode):
    """An option node. A subclass names itself, lists its inputs in `fields`, and says what differs:

    takes_lists: whether its inputs arrive as lists, as those of LoRA2 Train do.
    renamed: input -> setting, where the two have different names.
    modes_own: inputs whose default stands for the mode's own value. They are stored as None, so
        that a later node can go back to the mode's own value.
    """

    node_id: str
    title: str
    description: str
    aliases: list[str]
    takes_lists = False
    renamed: Mapping[str, str] = {}
    modes_own: Collection[str] = ()

    @classmethod
    def fields(cls) -> list[io.Input]:
        """Returns the inputs in the order of the form, `chain()` among them."""
        raise NotImplementedError

    @classmethod
    def settings(cls, **values: object) -> dict:
        """Returns the settings that the values of the inputs become."""
        defaults = {field.id: default_of(field) for field in schema_of(cls).inputs}
        own = [name for name in cls.modes_own if name in values and values[name] == defaults[name]]
        values |= dict.fromkeys(own)
        return {cls.renamed.get(name, name): value for name, value in values.items()}

    @classmethod
    def extended(cls, chain: dict, values: Mapping[str, object]) -> dict:
        """Returns a chain with this node's settings on top."""
        return chain | cls.settings(**values)

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the form: the fields, and the chain as the one output."""
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
        has its default; what is not connected has no setting.
        """
        values = {}
        for field in schema_of(cls).inputs:
            default = default_of(field)
            value = given.get(field.id, default if field.optional else None)
            if cls.takes_lists and field.id in given and default is not None:
                value = first(field.id, value)
            if value is not None:
                values[field.id] = value
        if cls.takes_lists:
            options = (options or [None])[0]
        return io.NodeOutput(cls.extended(check_options(options), values))
