"""torch.compile for parts of the host's models: how what it captures becomes code, and whether it
works on this machine.

torch's compiler is imported where it is used, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType

import torch

from .fused import plain_form
from .out_of_place import AUGMENTED
from .trial_forward import LONGEST_REASON

FORMS = {written: form for written, _, form in AUGMENTED}


def out_of_place(graph: torch.fx.Graph) -> None:
    """Lets augmented assignments in a captured graph make new tensors, and the host's fused
    operations compute in their plain form, as out_of_place.py does where nothing is captured.
    """
    made = set()
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if (form := FORMS.get(node.target)) is None:
            node.target = plain_form(node.target) or node.target
            continue
        left = node.args[0]
        value = left.meta.get("example_value") if isinstance(left, torch.fx.Node) else None
        if not torch.is_tensor(value) or not value.is_floating_point():
            continue
        node.target = form
        if value._is_view() and left not in made:
            with graph.inserting_before(node):
                node.args = graph.call_method("clone", (left,)), *node.args[1:]
        with graph.inserting_after(node):
            same = graph.call_method("to", (node, value.dtype))
        same.meta["example_value"] = value
        made.add(same)
        node.replace_all_uses_with(same, lambda user, same=same: user is not same)


def backend(module: torch.fx.GraphModule, inputs: list) -> Callable:
    """Makes code of a captured graph, for torch.compile."""
    from torch._inductor.compile_fx import compile_fx

    out_of_place(module.graph)
    module.recompile()
    return compile_fx(module, inputs)


def forget(functions: Iterable[FunctionType]) -> None:
    """Frees what was compiled of these functions."""
    from torch._dynamo.eval_frame import reset_code

    for function in functions:
        reset_code(function.__code__)


def errors() -> tuple[type[Exception], ...]:
    """Returns the errors of what can't be compiled."""
    from torch._dynamo import exc as capturing
    from torch._inductor import exc as making

    names = "OperatorIssue", "SubgraphLoweringException", "InvalidCxxCompiler", "CppCompileError"
    found = [getattr(making, name) for name in names if hasattr(making, name)]
    if limit := getattr(capturing, "FailOnRecompileLimitHit", None):
        found.append(limit)
    return capturing.TorchDynamoException, *found


def reason_of(error: BaseException) -> str:
    """Returns what an error of torch's compiler says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if said.startswith("backend=") and len(lines) > 1:
        said = lines[1]
    return said[:LONGEST_REASON].rstrip(".")


def reason_against(device: torch.device) -> str | None:
    """Returns why nothing can be compiled on this machine, None where it can: compiles a small
    function, forward and backward.
    """

    def small(x: torch.Tensor) -> torch.Tensor:
        return (x * 2 + 1).sigmoid().sum()

    try:
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.ones(64, device=device, requires_grad=True)
            torch.compile(small, backend=backend, fullgraph=True)(x).backward()
    except (RuntimeError, ImportError, OSError, AssertionError, NotImplementedError) as error:
        return reason_of(error)
    return None
