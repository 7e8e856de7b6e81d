"""Networks for other processors, in a C program under an emulator that has the instructions of the named core and no
others. Every output is compared with PyTorch's.

`make arm-test` installs what this needs and runs it; the default tests leave it out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import HERE, build, check, run

import specc
from specc import grammar
from specc.cli import execute
from specc.disassembly import disassemble
from specc.passes import halve
from specc.targets import TARGETS
from specc.weights import random_weights

sys.path.insert(0, str(HERE.parent / "backends" / "tvm"))

import special_numbers

pytestmark = pytest.mark.cross
EXAMPLES = HERE.parents[1] / "examples"
VECTORS = "rv64,v=true,vlen=128,elen=64,vext_spec=v1.0"
TELLING = (str(HERE / "with_vectors.c"), "-rdynamic")


def told(target: str) -> tuple[str, ...]:
    """What a program is linked with so that it knows of vectors which the emulator does not tell of."""
    return TELLING if target == "riscv64-v" else ()


@pytest.mark.parametrize(
    ("target", "cores"),
    [
        ("aarch64", ("cortex-a53", "cortex-a72", "neoverse-n1", "max")),
        ("cortex-a53", ("cortex-a53",)),
        ("cortex-a72", ("cortex-a72", "max")),
        ("cortex-a76", ("cortex-a76", "max")),
        ("neoverse-n1", ("neoverse-n1", "max")),
        ("neoverse-v1", ("max,sve128=on,sve256=on,sve512=off", "max,sve512=on")),
        ("armv7", ("cortex-a7", "max")),
        ("riscv64", ("rv64",)),
        ("riscv64-v", (VECTORS, VECTORS.replace("128", "256"))),
    ],
)
def test_digits(target: str, cores: tuple[str, ...], tmp_path: Path) -> None:
    artifact = specc.compile(specc.load(EXAMPLES / "digits.specc"), target=target)
    build(artifact, tmp_path, *told(target))
    for core in cores:
        check(artifact, tmp_path, core)


@pytest.mark.parametrize(
    ("target", "core"),
    [
        ("cortex-a72", "cortex-a72"),
        ("neoverse-v1", "max,sve256=on,sve512=off"),
        ("armv7", "cortex-a7"),
        ("riscv64", "rv64"),
    ],
)
def test_nan_and_infinities(target: str, core: str, tmp_path: Path) -> None:
    cases = special_numbers.pointwise() | special_numbers.rows()
    graph, places = special_numbers.network(cases)
    artifact = specc.compile(graph, target=target, level=0)
    build(artifact, tmp_path, *told(target))
    size = artifact.manifest.sizes[0]
    for spec, array in zip(size.inputs, (array for case in cases.values() for array in case.arrays), strict=True):
        array.tofile(tmp_path / "net" / "sample" / f"{spec.name}.bin")
    done = run(artifact, tmp_path, core)
    assert done.returncode == 0, done.stderr
    found = [np.fromfile(tmp_path / f"found-{o.name}", o.dtype).reshape(o.shape) for o in size.outputs]
    for name, case in cases.items():
        case.check([found[place] for place in places[name]], 1e-5)


_WHOLE = """specc 1

network Whole(x: [37], i: [37] int64, d: [37] float64):
    return cast(x, "int64"), cast(i, "float32"), cast(d, "int64"), cast(i, "float64")
"""


@pytest.mark.parametrize(
    ("target", "core"), [("cortex-a72", "cortex-a72"), ("armv7", "cortex-a7"), ("riscv64", "rv64")]
)
def test_integers_of_64_bits(target: str, core: str, tmp_path: Path) -> None:
    """Real numbers of all sizes become such, and such real numbers, rounded as numpy does."""
    artifact = specc.compile(grammar.loads(_WHOLE), target=target)
    build(artifact, tmp_path, *told(target))
    random = np.random.default_rng(0)
    numbers = random.uniform(-2, 2, 37) * 2.0 ** random.integers(0, 62, 37)
    numbers[:8] = [0, -0.0, 0.75, -0.75, -(2**32), 2**32 - 256, 1.5 * 2**31, -(2.0**63)]
    given = {
        "x": numbers.astype(np.float32),
        "i": random.integers(-(2**62), 2**62, 37) >> random.integers(0, 62, 37),
        "d": numbers,
    }
    for name, array in given.items():
        array.tofile(tmp_path / "net" / "sample" / f"{name}.bin")
    done = run(artifact, tmp_path, core)
    assert done.returncode == 0, done.stderr
    wanted = [
        given[name].astype(kind) for name, kind in zip("xidi", ("int64", "float32", "int64", "float64"), strict=True)
    ]
    for output, expected in zip(artifact.manifest.sizes[0].outputs, wanted, strict=True):
        assert np.array_equal(np.fromfile(tmp_path / f"found-{output.name}", output.dtype), expected)


@pytest.mark.parametrize(
    ("target", "cores", "side"),
    [
        ("cortex-a72", ("cortex-a72", "max"), 224),
        ("neoverse-v1", ("max,sve256=on,sve512=off",), 224),
        ("armv7", ("cortex-a7",), 224),
        ("riscv64", ("rv64",), 64),
        ("riscv64-v", (VECTORS,), 64),
    ],
)
def test_repvit(target: str, cores: tuple[str, ...], side: int, tmp_path: Path) -> None:
    """The emulator takes minutes for RISC-V's multiply-adds: there, pictures are small."""
    artifact = specc.compile(specc.load("zoo:repvit/m1_1"), target=target, shapes={"h": side, "w": side})
    build(artifact, tmp_path, *told(target))
    for core in cores:
        check(artifact, tmp_path, core)


INTEGERS = """specc 1

network Integers(x: [1, 16, 13, 12]) -> [1, 121]:
    a = conv2d(x, 40, k=3)
    b = conv2d(relu(a), 30, k=(1, 4), p=(0, 1))
    c = conv2d(relu(b), 33, k=3, s=2)
    d = conv2d(relu(c), 33, k=3, d=2)
    e = conv2d(relu(d + c), 128, k=1)
    head = linear(flatten(max_pool2d(relu(e), k=2)), 121)
    return head
"""


@pytest.mark.parametrize(
    ("target", "cores", "instruction"),
    [
        ("cortex-a53", ("cortex-a53",), ""),
        ("cortex-a76", ("cortex-a76", "max"), "sdot"),
        ("neoverse-n1", ("neoverse-n1",), "sdot"),
        ("neoverse-v1", ("max,sve256=on,sve512=off", "max,sve512=on"), "sudot"),
        ("armv7", ("cortex-a7",), ""),
    ],
)
def test_integers(target: str, cores: tuple[str, ...], instruction: str, tmp_path: Path) -> None:
    """Layers of integers are equal to PyTorch's in every bit, and multiply with the instruction that the core has."""
    samples = {"x": np.random.default_rng(0).standard_normal((4, 16, 13, 12), np.float32)}
    graph = grammar.loads(INTEGERS)
    artifact = specc.compile(graph, target=target, precision="int8", samples=samples, bound=1.0)
    assert artifact.manifest.facts["precision"]["layers"] == 6
    build(artifact, tmp_path)
    for core in cores:
        check(artifact, tmp_path, core, tolerance=0.0)
    names = sorted({call["kernel"] for call in artifact.manifest.sizes[0].facts["kernels"] if call["macs"]})
    assert len(names) == 6
    for outer in disassemble(artifact.contents.library, TARGETS[target], names).values():
        loops = [loop.own() for one in outer for loop in one.all() if not loop.inner]
        found = {one.text.partition(" ")[0] for loop in loops for one in loop}
        assert instruction in found or not instruction


HALVES = {
    "1x1": ("c = conv2d(x, 44, k=1)", "conv2d(relu(c), 72, k=1)", [1, 3, 13, 12]),
    "3x3": ("c = conv2d(x, 30, k=1)", "conv2d(relu(c), 40, k=3, s=2, p=(1, 0))", [1, 3, 14, 13]),
    "1x4": ("c = conv2d(x, 16, k=1)", "conv2d(relu(c), 44, k=(1, 4), s=(1, 2), p=(0, 1))", [2, 3, 13, 12]),
    "rows": ("c = x", "linear(c, 96)", [2, 15, 76]),
    "one row": ("c = x", "linear(c, 400)", [1, 500]),
}
"""Layers of float16: channels, rows and terms that fill neither blocks nor tiles nor runs, and some that do. A layer of
three channels stays in float32; what it gives may be rounded to one of two neighbours."""


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize(
    ("target", "cores"),
    [
        ("cortex-a76", ("cortex-a76", "max")),
        ("neoverse-n1", ("neoverse-n1", "max")),
        ("neoverse-v1", ("max,sve256=on,sve512=off",)),
    ],
)
def test_sums_of_float16(
    name: str, target: str, cores: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of the judge where that rounds after every term everywhere, and by far not those of float32."""
    from specc.backends.torch import evaluate, runs

    first, call, shape = HALVES[name]
    graph = grammar.loads(f"specc 1\n\nnetwork Halves(x: {shape}):\n    {first}\n    y = {call}\n    return y\n")
    artifact = specc.compile(graph, target=target, precision="fp16")
    assert artifact.manifest.facts["precision"]["layers"] == 1
    build(artifact, tmp_path)
    monkeypatch.setattr(runs, "PLACES", 1 << 20)
    (layer,) = halve.HALVING.candidates(graph)
    sample = artifact.contents.samples[0]
    (rounded,) = evaluate(
        halve.halve(graph, "float16", [layer]), random_weights(graph), {"x": sample.inputs[0]}, half_sums=True
    )
    assert (np.abs(rounded - sample.outputs[0]) > 1e-6 * np.abs(rounded).max()).mean() > 0.9
    for core in cores:
        check(artifact, tmp_path, core, tolerance=artifact.manifest.facts["precision"]["tolerance"])
        found = np.fromfile(tmp_path / f"found-{artifact.manifest.sizes[0].outputs[0].name}", "float32")
        apart = np.abs(found.reshape(rounded.shape) - rounded) / np.abs(rounded).max()
        assert (apart > 1e-6).mean() < 0.03 and apart.max() < 1e-3
    names = sorted({call["kernel"] for call in artifact.manifest.sizes[0].facts["kernels"] if call["macs"]})
    kernels = disassemble(artifact.contents.library, TARGETS[target], names)
    listings = [[one.text for loop in outer for one in loop.body] for outer in kernels.values()]
    assert sum(any(re.match(r"fmla v\d+\.8h", text) for text in listing) for listing in listings) == 1


PAIRS = """specc 1

network Pairs(x: [2, 20, 13, 12]) -> [2, 1001]:
    a = conv2d(x, 40, k=3)
    b = conv2d(relu(a), 30, k=(1, 4), p=(0, 1))
    c = conv2d(relu(b), 33, k=3, s=2)
    d = conv2d(relu(c), 33, k=3, d=2, p=2)
    e = conv2d(relu(d + c), 130, k=1)
    f = linear(flatten(max_pool2d(relu(e), k=2)), 378)
    head = linear(relu(f), 1001)
    return head
"""
"""Convolutions and layers whose channels, rows and inputs fill neither blocks nor tiles, and inputs that are read in
fours of pairs, in twos and one by one."""


@pytest.mark.parametrize("core", ["max,sve256=on,sve512=off", "max,sve512=on"])
def test_products_of_bfloat16_in_pairs(core: str, tmp_path: Path) -> None:
    """On a core that has them, as the emulator computes them, they are those of the judge."""
    artifact = specc.compile(grammar.loads(PAIRS), target="neoverse-v1", precision="bf16", bound=1.0)
    facts = artifact.manifest.facts["precision"]
    assert facts["layers"] == 7
    build(artifact, tmp_path)
    check(artifact, tmp_path, core, tolerance=facts["tolerance"])
    names = sorted({call["kernel"] for call in artifact.manifest.sizes[0].facts["kernels"] if call["macs"]})
    assert len(names) == 7
    for outer in disassemble(artifact.contents.library, TARGETS["neoverse-v1"], names).values():
        loops = [loop.own() for one in outer for loop in one.all() if not loop.inner]
        assert any(one.text.startswith("bfdot") for loop in loops for one in loop)


@pytest.mark.parametrize(
    ("target", "core"),
    [
        ("neoverse-n1", "cortex-a53"),
        ("neoverse-v1", "neoverse-n1"),
        ("neoverse-v1", "max,sve128=on,sve256=off,sve512=off"),
        ("riscv64-v", "rv64,v=false"),
    ],
)
def test_a_core_that_lacks_an_extension_is_told_before_a_kernel_runs(target: str, core: str, tmp_path: Path) -> None:
    artifact = specc.compile(specc.load(EXAMPLES / "digits.specc"), target=target)
    build(artifact, tmp_path)
    done = run(artifact, tmp_path, core)
    assert done.returncode == 1
    assert "lacks an extension" in done.stderr


def test_an_artifact_for_another_processor_is_refused_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specc.compile(specc.load(EXAMPLES / "digits.specc"), target="aarch64").save(tmp_path / "arm.artifact")
    assert execute(["run", str(tmp_path / "arm.artifact"), "--self-test"]) == 1
    assert "S0904" in capsys.readouterr().err


def test_one_target_s_options_do_not_reach_the_next(tmp_path: Path) -> None:
    """LLVM's own options are a state of the process: a kernel without vectors of SVE's follows one with them."""
    artifacts = {
        target: specc.compile(specc.load(EXAMPLES / "digits.specc"), target=target)
        for target in ("neoverse-v1", "neoverse-n1")
    }
    listings = {}
    for target, artifact in artifacts.items():
        (tmp_path / target).write_bytes(artifact.contents.library)
        command = ["aarch64-linux-gnu-objdump", "-d", "-m", "aarch64", str(tmp_path / target)]
        listings[target] = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"\bfmla\s+z\d+\.s", listings["neoverse-v1"])
    assert not re.search(r"\bz\d+\.s", listings["neoverse-n1"])
