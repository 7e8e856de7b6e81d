"""The manifest: what an artifact says of itself, as data <-> JSON, with every check that the JSON is one.

It names the network, what a caller gives and gets at each size, and the machine that the library is for; a file has it
beside the library, the weights and the samples (`specc.artifact`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from specc.diagnostics import error
from specc.ir.dtypes import STORED


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or an output: what a caller gives or gets.

    `pattern` is there where the tensor has open dimensions: their names, or arithmetic on them, beside fixed extents;
    `shape` is that of the sample then. `domain` is the least and the greatest element that makes sense in an input
    (None: no limit on that side): an index lies inside its table.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    domain: tuple[float | None, float | None] | None = None
    pattern: tuple[int | str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.pattern or self.shape))}]"

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an array has this shape, or one that open dimensions may give it."""
        if not self.pattern:
            return shape == self.shape
        return len(shape) == len(self.pattern) and all(
            isinstance(dim, str) or extent == dim for extent, dim in zip(shape, self.pattern)
        )

    def at(self, dimensions: Mapping[str, int]) -> TensorSpec:
        """This tensor where its open dimensions have these extents."""
        from specc.ir.dims import parse_dim, substitute

        shape = (substitute(parse_dim(str(dim)), dimensions) for dim in self.pattern or self.shape)
        return replace(self, shape=tuple(map(int, shape)), pattern=())  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the library runs: the target's name, the processor's family, the features that it must have."""

    target: str
    architecture: str
    requires: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """The network at one size: `dimensions` are the extents, by name, of the dimensions that the spec gives no number.

    Those in `open` are given by who runs it, and have these extents in the sample alone. `facts` are what is to be said
    of this size alone: what each pass did, the kernels, the memory.
    """

    dimensions: tuple[tuple[str, int], ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    open: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ",".join(f"{name}={'any' if name in self.open else extent}" for name, extent in self.dimensions)

    def at(self, extents: Mapping[str, int]) -> Size:
        """This size with nothing open: the dimensions that were have these extents, or those of the sample."""
        if not self.open:
            return self
        dimensions = {name: extents.get(name, extent) for name, extent in self.dimensions}
        inputs, outputs = (tuple(spec.at(dimensions) for spec in specs) for specs in (self.inputs, self.outputs))
        return replace(self, dimensions=tuple(dimensions.items()), inputs=inputs, outputs=outputs, open=())


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artifact says of itself.

    Inputs and outputs have the same names and element types at all sizes; no two sizes take the same shapes.
    `library` says what its library is: "shared", to be loaded; "static", to be linked with; or "source", C to compile.
    `facts` are for people and programs to read,
    nothing is decided by them: digests of the spec and the checkpoint, tuning records.
    """

    network: str
    sizes: tuple[Size, ...]
    machine: Machine
    specc: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    library: str = "shared"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs at the first size."""
        return self.sizes[0].inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs at the first size."""
        return self.sizes[0].outputs

    def size(self, dimensions: Mapping[str, int] | None = None) -> Size:
        """The first size whose dimensions have, or may have, these extents (None: the first), with nothing open.

        As the driver does, it takes a fixed size where inputs fit one. Raises S1006 where there is none.
        """
        wanted = dimensions or {}
        for size in sorted(self.sizes, key=lambda size: bool(size.open)) if wanted else self.sizes:
            if wanted.items() <= {**dict(size.dimensions), **{name: wanted.get(name) for name in size.open}}.items():
                found = size.at(wanted)
                return next((one for one in self.sizes if not one.open and one.inputs == found.inputs), found)
        asked = ",".join(f"{name}={extent}" for name, extent in wanted.items())
        sizes = " and ".join(str(size) for size in self.sizes if size.dimensions) or "one size"
        raise error("S1006", f"`{self.network}` is compiled for {sizes}, not for {asked}")

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Manifest:
        """What `to_json` gives; raises `ValueError`, `TypeError` or `KeyError` for anything else."""
        machine = value["machine"]
        sizes = tuple(map(_size, value["sizes"]))
        if len({tuple((spec.name, spec.dtype) for spec in (*size.inputs, *size.outputs)) for size in sizes}) != 1:
            raise ValueError("its sizes have different interfaces, or there is none")
        if len({tuple(spec.pattern or spec.shape for spec in size.inputs) for size in sizes}) != len(sizes):
            raise ValueError("two of its sizes take the same shapes")
        return cls(
            network=_text(value["network"]),
            sizes=sizes,
            machine=Machine(
                _text(machine["target"]), _text(machine["architecture"]), tuple(map(_text, machine["requires"]))
            ),
            specc=_text(value["specc"]),
            facts=_facts(value["facts"]),
            library=_library(value["library"]),
        )


def _size(value: Mapping[str, Any]) -> Size:
    inputs, outputs = (tuple(map(_spec, value[key])) for key in ("inputs", "outputs"))
    for specs in (inputs, outputs):
        if len({spec.name for spec in specs}) != len(specs):
            raise ValueError("a name stands twice in its interface")
    dimensions = tuple((_file_name(name), natural(extent)) for name, extent in value["dimensions"])
    opened = tuple(map(_text, value["open"]))
    if not set(opened) <= dict(dimensions).keys():
        raise ValueError("what is open is no dimension")
    return Size(dimensions, inputs, outputs, _facts(value["facts"]), opened)


def _facts(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("its facts are no object")
    return value


def _library(value: Any) -> str:
    if value not in ("shared", "static", "source"):
        raise ValueError(f"{value!r} is no kind of library")
    return str(value)


def _spec(value: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(
        _file_name(value["name"]),
        shape_of(value["shape"]),
        dtype_of(value["dtype"]),
        _domain(value["domain"]),
        _pattern(value),
    )


def _pattern(value: Mapping[str, Any]) -> tuple[int | str, ...]:
    found = tuple(_text(dim) if isinstance(dim, str) else natural(dim) for dim in value["pattern"])
    if found and len(found) != len(value["shape"]):
        raise ValueError(f"{found} is no shape")
    return found


def _domain(value: Any) -> tuple[float | None, float | None] | None:
    if value is None:
        return None
    least, greatest = value
    if any(type(limit) not in (int, float, type(None)) for limit in value):
        raise ValueError(f"{value!r} is no interval")
    return least, greatest


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{value!r} is no name")
    return value


def _file_name(value: Any) -> str:
    """A name that `specc unpack` makes a part of a file's name."""
    if "/" in _text(value):
        raise ValueError(f"{value!r} is no name")
    return str(value)


def natural(value: Any) -> int:
    """A number of bytes or elements in JSON; raises `ValueError` for anything else."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no length")
    return value


def shape_of(value: Any) -> tuple[int, ...]:
    """A tensor's extents in JSON; raises `ValueError` for anything else."""
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no shape")
    return tuple(map(natural, value))


def dtype_of(value: Any) -> str:
    """The name of an element type in JSON; raises `ValueError` for anything else."""
    if value not in STORED:
        raise ValueError(f"{value!r} is no element type")
    return str(value)
