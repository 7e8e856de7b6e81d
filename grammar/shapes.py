"""Named dimensions: a declared tensor type against an actual tensor.

A bare name in a parameter's type stands for the extent that is there; where it occurs again, all must agree. Everything
else (`3`, `2 * c`, a compile-time parameter) is computed and compared. `_` fits anything.
"""

from __future__ import annotations

from specc.diagnostics import Label, Span
from specc.grammar import syntax as s
from specc.grammar.expressions import Evaluator
from specc.grammar.printer import print_expression, print_type
from specc.grammar.scope import Scope
from specc.grammar.values import Poisoned, Tensor, described, is_integer, show_shape
from specc.ir.dims import Dim, Symbolic


def check_form(evaluator: Evaluator, scope: Scope, parameter: s.Parameter, tensor: Tensor, span: Span) -> None:
    """Raises S0303 where the tensor has another number of dimensions, or other elements, than the parameter's type."""
    assert parameter.tensor is not None
    if parameter.tensor.dtype != tensor.type.dtype:
        message = (
            f"`{parameter.name}` of `{scope.definition.name}` holds {parameter.tensor.dtype}, "
            f"{print_type(parameter.type)}; this tensor holds {tensor.type.dtype}"
        )
        labels = [Label(span, show_shape(tensor.type)), Label(parameter.span, "declared here")]
        notes = [] if parameter.tensor.element else ["without an element type behind its shape, a tensor is float32"]
        raise evaluator.session.problem("S0303", message, *labels, notes=notes)
    wanted, found = len(parameter.tensor.dimensions), tensor.type.rank
    if wanted != found:
        message = (
            f"`{parameter.name}` of `{scope.definition.name}` has {wanted} dimensions, "
            f"{print_type(parameter.type)}; this tensor has {found}"
        )
        labels = [Label(span, show_shape(tensor.type)), Label(parameter.span, "declared here")]
        raise evaluator.session.problem("S0303", message, *labels)


def bind_dimensions(
    evaluator: Evaluator, scope: Scope, parameter: s.Parameter, tensor: Tensor, span: Span, compile_time: frozenset[str]
) -> None:
    """Binds the bare names in the parameter's type; raises S0304 where two extents of one name differ."""
    assert parameter.tensor is not None
    for dimension, extent in zip(parameter.tensor.dimensions, tensor.type.shape, strict=True):
        name = dimension.size.name if isinstance(dimension.size, s.Name) else "_"
        if name == "_" or name in compile_time:
            continue
        if name not in scope.dims:
            scope.dims[name], scope.dim_spans[name] = extent, dimension.span
            scope.dim_origins[name] = (parameter.name, span)
        elif scope.dims[name] != extent:
            first, where = scope.dim_origins[name]
            message = (
                f"the dimension `{name}` of `{scope.definition.name}` is {scope.dims[name]} in `{first}` "
                f"and {extent} in `{parameter.name}`"
            )
            labels = [Label(span, show_shape(tensor.type)), Label(dimension.span, f"`{name}` = {extent}")]
            if where != span:
                labels.insert(1, Label(where, f"`{name}` = {scope.dims[name]}"))
            raise evaluator.session.problem("S0304", message, *labels)


def check_dimensions(evaluator: Evaluator, scope: Scope, parameter: s.Parameter, tensor: Tensor, span: Span) -> None:
    """Compares the computed dimensions of the parameter's type with the extents that are there."""
    assert parameter.tensor is not None
    for dimension, extent in zip(parameter.tensor.dimensions, tensor.type.shape, strict=True):
        wanted = declared_extent(evaluator, scope, dimension)
        if wanted is not None and wanted != extent:
            written = print_expression(dimension.size)
            equation = written if written == str(wanted) else f"{written} = {wanted}"
            message = f"`{parameter.name}` of `{scope.definition.name}` needs {equation} here; the tensor has {extent}"
            labels = [Label(span, show_shape(tensor.type)), Label(dimension.span, f"needs {wanted}")]
            raise evaluator.session.problem("S0303", message, *labels)


def declared_extent(evaluator: Evaluator, scope: Scope, dimension: s.Dimension) -> Dim | None:
    """The extent that a declared dimension stands for; None for `_`."""
    if dimension.size == s.Name("_"):
        return None
    value = evaluator.evaluate(dimension.size, scope)
    if not (is_integer(value) or isinstance(value, Symbolic)):
        message = f"a dimension is an integer; this is {described(value)}"
        raise evaluator.session.problem("S0401", message, Label(dimension.span))
    assert isinstance(value, (int, Symbolic))
    return value


def check_result(evaluator: Evaluator, scope: Scope, declared: s.Tensor, value: object, span: Span, which: str) -> None:
    """Raises S0305 where a returned value is not what the block declares."""
    name = scope.definition.name
    if not isinstance(value, Tensor):
        shown = described(value)  # type: ignore[arg-type]
        message = f"`{name}` declares a tensor {print_type(declared)} as {which}, and returns {shown}"
        raise evaluator.session.problem("S0305", message, Label(span), Label(declared.span, "declared here"))
    try:
        wanted = [declared_extent(evaluator, scope, dimension) for dimension in declared.dimensions]
    except Poisoned:
        return
    shape = value.type.shape
    fits = len(wanted) == len(shape) and all(w is None or w == e for w, e in zip(wanted, shape, strict=True))
    if not fits or value.type.dtype != declared.dtype:
        expected = f"[{', '.join('_' if extent is None else str(extent) for extent in wanted)}]"
        expected += "" if declared.dtype == value.type.dtype == "float32" else f" {declared.dtype}"
        message = f"`{name}` returns {show_shape(value.type)}, and declares {print_type(declared)}"
        labels = [Label(span, f"this is {show_shape(value.type)}"), Label(declared.span, f"this says {expected}")]
        known = [f"{dim} = {extent}" for dim, extent in scope.dims.items() if str(extent) != dim]
        notes = [f"in this call of `{name}`, {', '.join(known)}"] if known else []
        raise evaluator.session.problem("S0305", message, *labels, notes=notes)
