"""`param pos: [1, l, c] init normal(0.02)` --> a parameter of the graph, under the name that it is given.

Behind `as` stands another name for the checkpoint: `param weight as "weight_ih_l{layer}": [...]`. A `buffer` is the
same, but not trained. How it begins is what `torch.nn.init` calls it; without `init`, at zero.
"""

from __future__ import annotations

import re

from specc.diagnostics import Label, did_you_mean
from specc.grammar import operators
from specc.grammar import syntax as s
from specc.grammar.expressions import Evaluator
from specc.grammar.nameless import nameless
from specc.grammar.scope import Scope, join
from specc.grammar.shapes import declared_extent
from specc.grammar.values import Tensor, described, is_integer
from specc.ir.types import TensorType

INITIALIZERS = {
    "zeros": "",
    "ones": "",
    "constant": "a number",
    "kaiming": "",
    "normal": "a standard deviation",
    "uniform": "a bound",
}
"""Every way to begin, and the number that it takes, if it takes one."""


def declare(evaluator: Evaluator, scope: Scope, statement: s.Param, indices: list[int | str]) -> Tensor:
    """The tensor that the statement declares, as a new parameter of the graph."""
    session = evaluator.session
    slot = _slot(evaluator, scope, statement, indices)
    if scope.place.nameless:
        raise nameless(session, scope.place, statement.span, "the parameter of this")
    shape = tuple(_extent(evaluator, scope, dimension) for dimension in statement.type.dimensions)
    type_ = TensorType(shape, statement.type.dtype)
    if statement.kind == "param" and not type_.dtype.startswith("float"):
        message = f"a `param` is trained, and {type_.dtype} is not; it is a `buffer`"
        raise session.problem("S0401", message, Label(statement.type.span))
    session.bound_size(type_, statement.span)
    init = _init(evaluator, scope, statement.init, type_)
    key = join(scope.place.path, slot)
    operators.own_key(session, key, statement.span)
    value = session.graph.parameter(key, type_, init, statement.kind == "param", statement.span)
    return Tensor(value, type_, statement.span)


def _slot(evaluator: Evaluator, scope: Scope, statement: s.Param, indices: list[int | str]) -> str:
    """The name in the checkpoint: that behind `as`, or the name of the tensor."""
    if statement.key is None:
        return ".".join([statement.target.name, *map(str, indices)])
    slot = evaluator.text(statement.key, scope)
    if not re.fullmatch(r"\w+(\.\w+)*", slot):
        message = f'a name in the checkpoint is words with dots between them; this is "{slot}"'
        raise evaluator.session.problem("S0401", message, Label(statement.key.span))
    return slot


def _extent(evaluator: Evaluator, scope: Scope, dimension: s.Dimension) -> int:
    extent = declared_extent(evaluator, scope, dimension)
    if isinstance(extent, int) and extent >= 1:
        return extent
    if extent is None or isinstance(extent, int):
        shown = "_" if extent is None else str(extent)
        message = f"an extent of a parameter is an integer of at least 1; this is {shown}"
        raise evaluator.session.problem("S0401", message, Label(dimension.span))
    message = f"the shape of a parameter must be known now, and `{extent}` is fixed only when the network is compiled"
    note = "a number, or a parameter of the block, in the place of the dimension"
    raise evaluator.session.problem("S0405", message, Label(dimension.span), notes=[note])


def _init(evaluator: Evaluator, scope: Scope, init: s.Initializer | None, type_: TensorType) -> str:
    if init is None:
        return "zeros"
    session, label = evaluator.session, Label(init.span)
    if init.name not in INITIALIZERS:
        notes = did_you_mean(init.name, INITIALIZERS) or (f"there are {', '.join(INITIALIZERS)}",)
        raise session.problem("S0201", f"no parameter begins as `{init.name}`", label, notes=notes)
    wanted = INITIALIZERS[init.name]
    if bool(wanted) != (init.argument is not None):
        takes = f"takes {wanted}: {init.name}(0.02)" if wanted else "takes no number"
        notes = () if wanted else ("another number is `constant(0.02)`",)
        raise session.problem("S0403", f"`{init.name}` {takes}", label, notes=notes)
    if init.name == "kaiming" and type_.rank < 2:
        raise session.problem("S0302", f"`kaiming` is for two dimensions or more, and this is {type_}", label)
    if init.name not in ("zeros", "ones", "constant") and not type_.dtype.startswith("float"):
        raise session.problem("S0302", f"`{init.name}` draws numbers with fractions, and this is {type_}", label)
    if init.argument is None:
        return init.name
    value = evaluator.evaluate(init.argument, scope)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        wrong = f"{wanted} is needed here; this is {described(value)}"
    elif init.name != "constant" and value < 0:
        wrong = f"{wanted} is at least 0, and this is {value}"
    elif not (type_.dtype.startswith("float") or is_integer(value)):
        wrong = f"{value} is no {type_.dtype}"
    else:
        return f"{init.name}({float(value)})"
    raise session.problem("S0401", wrong, Label(init.argument.span))
