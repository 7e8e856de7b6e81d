"""Node --> call: the arguments from which `spell` makes a node's attributes and weights.

`spell` of a record goes one way, from `conv2d(x, 64, k=3)` to `{stride=(1, 1), padding=(1, 1, 1, 1)}` and a weight
[64, c, 3, 3]. No record has to say the way back: every value that an argument can have shows somewhere in the node, in
an attribute, in the shape of a weight, or as the default. So the arguments are searched for among these, one after
the other, by how much of the node a guess gets right; and what is found is proven by `spell` itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from specc import ops
from specc.ir.types import TensorType
from specc.ops.record import REQUIRED, Argument, Illegal, Operator, Spelling


def arguments(
    record: Operator, types: Sequence[TensorType], attrs: Mapping[str, Any], weights: Sequence[TensorType] = ()
) -> dict[str, Any] | None:
    """The arguments of the call that makes this node, without those that have their default; None where no call does.

    `types` are those of the call's operands, `weights` those of the operands behind them.
    """
    found = _search(record.name, tuple(types), tuple(sorted(attrs.items())), tuple(weights))
    return None if found is None else dict(found)


@lru_cache(maxsize=4096)
def _search(
    name: str, types: tuple[TensorType, ...], attrs: tuple[tuple[str, Any], ...], weights: tuple[TensorType, ...]
) -> tuple[tuple[str, Any], ...] | None:
    goal = _Goal(ops.get(name), types, dict(attrs), weights)
    choices = {argument.name: list(goal.candidates(argument)) for argument in goal.record.signature}
    required = [a.name for a in goal.record.signature if a.default is REQUIRED]
    optional = {a.name: a.default for a in goal.record.signature if a.default is not REQUIRED}
    firsts = itertools.product(*(choices[name] for name in required))
    starts: list[dict[str, Any]] = [{**optional, **dict(zip(required, chosen))} for chosen in firsts]
    best = max(starts, key=goal.score, default=None)
    if best is None:
        return None
    for together in (1, 1, 2):  # two at once where one change alone makes the guess worse
        for names in itertools.combinations(choices, together):
            if not goal.met(best):
                values = itertools.product(*([best[name], *choices[name]] for name in names))
                best = max((best | dict(zip(names, chosen)) for chosen in values), key=goal.score)
    if not goal.met(best):
        return None
    for argument, default in optional.items():
        if goal.met(best | {argument: default}):
            best = best | {argument: default}
    return tuple((a, value) for a, value in best.items() if a in required or not same(value, optional[a]))


class _Goal:
    def __init__(
        self, record: Operator, types: Sequence[TensorType], attrs: Mapping[str, Any], weights: Sequence[TensorType]
    ) -> None:
        self.record, self.types, self.attrs, self.weights = record, types, attrs, weights

    def candidates(self, argument: Argument) -> Iterator[Any]:
        """What the argument can be, going by what stands in the node; likely values first."""
        shapes = [weight.shape for weight in self.weights]
        seen = [self.attrs[argument.name]] if argument.name in self.attrs else []
        seen += [*self.attrs.values(), *shapes, *(shape[-count:] for shape in shapes for count in (1, 2, 3))]
        seen += [extent for value in list(seen) if isinstance(value, tuple) for extent in value]
        factors = [value for value in self.attrs.values() if type(value) is int and value > 1]  # as groups are
        seen += [extent * factor for extent in seen if type(extent) is int for factor in factors]
        if argument.kind.startswith("bool"):
            seen = [True, False]
        if argument.kind.endswith("?"):
            seen = [*seen, None]
        values: list[Any] = []
        for value in seen:
            try:
                normal = ops.normal_form(argument, value)
            except Illegal:
                continue
            if not any(same(normal, other) for other in values):
                values.append(normal)
        return iter(values)

    def spelled(self, guess: dict[str, Any]) -> Spelling | None:
        try:
            spelling = ops.spell(self.record, self.types, guess)
            attrs = ops.complete(self.record, dict(spelling.attrs))
        except Illegal:
            return None
        return Spelling(attrs, spelling.weights)

    def score(self, guess: dict[str, Any]) -> int:
        """How much of the node a guess gets right; the least for a call that is not legal."""
        spelling = self.spelled(guess)
        if spelling is None:
            return -(2**31)
        right = sum(same(self.attrs[name], value) for name, value in spelling.attrs.items())
        for weight, goal in zip(spelling.weights, self.weights):
            right += sum(a == b for a, b in zip(weight.type.shape, goal.shape))
        return right - 4 * abs(len(spelling.weights) - len(self.weights))

    def met(self, guess: dict[str, Any]) -> bool:
        spelling = self.spelled(guess)
        return (
            spelling is not None
            and all(same(self.attrs[name], value) for name, value in spelling.attrs.items())
            and [weight.type for weight in spelling.weights] == list(self.weights)
        )


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal and of one type: 1 is not 1.0, and no bool."""
    return type(a) is type(b) and bool(a == b)
