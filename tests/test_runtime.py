"""Running artifacts: arrays in, arrays out, and nothing but the runtime for it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

import specc
from specc import artifact as container
from specc import runtime
from specc.artifact import ALIGNMENT, Contents
from specc.diagnostics import SpeccError
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.runtime import Artifact


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "tiny.artifact"
    tiny.artifact().save(path)
    return path


@pytest.fixture
def contents(path: Path) -> Contents:
    return container.read(path)


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(SpeccError) as caught:
        action()
    return caught.value.diagnostics[0].code


def test_it_passes_its_own_test(path: Path) -> None:
    (apart,) = runtime.open(path).self_test()
    assert apart < 1e-5


def test_a_wrong_expectation_is_noticed(contents: Contents) -> None:
    (sample,) = contents.samples
    wrong = replace(contents, samples=[replace(sample, outputs=[sample.outputs[0] * np.float32(1.001)])])
    assert code_of(Artifact(wrong).self_test) == "S0908"


def test_wrong_weights_are_noticed(contents: Contents) -> None:
    wrong = replace(contents, weights=[weight * np.float32(1.1) for weight in contents.weights])
    assert code_of(Artifact(wrong).self_test) == "S0908"


def test_inputs_by_position_and_by_name_are_the_same(path: Path) -> None:
    artifact, image = runtime.open(path), tiny.image()
    assert np.array_equal(artifact(image)[0], artifact(image=image)[0])


def test_inputs_of_any_alignment_and_order_in_memory(path: Path) -> None:
    artifact, image = runtime.open(path), tiny.image()
    expected = artifact(image)[0]
    shifted = np.empty(image.nbytes + 4, np.uint8)[4:].view("float32").reshape(image.shape)
    shifted[...] = image
    frozen = image.copy()
    frozen.flags.writeable = False
    kind = image.view(np.memmap)
    for same in (shifted, np.asfortranarray(image), image[:, ::-1].copy()[:, ::-1], frozen, kind):
        assert np.array_equal(artifact(same)[0], expected)


def test_inputs_that_are_copied_stay_apart() -> None:
    """Each copy is kept until the network has run: what is freed before has the next one in its place."""
    graph = Graph("Difference")
    operands = [graph.input(name, TensorType((300, 500))) for name in "xyz"]
    graph.outputs = [graph.apply("sub", [graph.apply("sub", operands[:2]), operands[2]])]
    x, y, z = (np.full((500, 300), number, "float32").T for number in (7, 2, 1))
    assert (specc.compile(graph)(x, y, z)[0] == 4).all()


def test_an_index_outside_of_its_table_is_refused_in_every_call() -> None:
    graph = Graph("Table")
    graph.outputs = [graph.call("embedding", [graph.input("i", TensorType((4,), "int64"))], {"count": 5, "width": 3})]
    artifact = specc.compile(graph)
    for _ in range(3):
        artifact(np.array([0, 4, 1, 2]))
    for wrong in (5, -1):
        assert code_of(lambda wrong=wrong: artifact(np.array([0, wrong, 1, 2]))) == "S0913"


def test_results_belong_to_the_caller(path: Path) -> None:
    artifact = runtime.open(path)
    first = artifact(tiny.image(1))[0]
    assert first.ctypes.data % ALIGNMENT == 0, "the driver would copy it"
    kept = first.copy()
    artifact(tiny.image(2))
    assert np.array_equal(first, kept)
    first[:] = 0
    assert np.array_equal(artifact(tiny.image(1))[0], kept)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda a: a(), "S0910"),
        (lambda a: a(tiny.image(), tiny.image()), "S0910"),
        (lambda a: a(imag=tiny.image()), "S0910"),
        (lambda a: a(tiny.image(), image=tiny.image()), "S0910"),
        (lambda a: a(self=tiny.image()), "S0910"),
        (lambda a: a(tiny.image()[0]), "S0911"),
        (lambda a: a(tiny.image()[..., :4]), "S0911"),
        (lambda a: a(tiny.image().astype("float64")), "S0912"),
        (lambda a: a(tiny.image().astype(">f4")), "S0912"),
        (lambda a: a(tiny.image().tolist()), "S0912"),
        (lambda a: a("image.png"), "S0912"),
        (lambda a: a(None), "S0912"),
    ],
)
def test_wrong_inputs(path: Path, call: Callable[[runtime.Artifact], object], code: str) -> None:
    artifact = runtime.open(path)
    assert code_of(lambda: call(artifact)) == code
    artifact(tiny.image())
    assert code_of(lambda: call(artifact)) == code, "behind a call that was right"


def test_a_misspelt_input_gets_a_hint(path: Path) -> None:
    with pytest.raises(SpeccError, match="did you mean `image`"):
        runtime.open(path)(imag=tiny.image())


def test_several_artifacts_live_side_by_side(path: Path, contents: Contents) -> None:
    doubled = replace(contents, weights=[weight * np.float32(2) for weight in contents.weights])
    one, two, other = runtime.open(path), runtime.open(path), Artifact(doubled)
    image = tiny.image()
    expected = one(image)[0]
    assert not np.allclose(other(image)[0], expected)
    assert np.array_equal(two(image)[0], expected)
    del two
    gc.collect()
    assert np.array_equal(one(image)[0], expected)


def test_an_artifact_outlives_its_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(path.read_bytes())
    artifact = runtime.open(tmp_path / "copy")
    (tmp_path / "copy").unlink()
    artifact.self_test()


def test_nothing_stays_in_the_temporary_folder(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runtime.open(path).self_test()
    assert list(tmp_path.iterdir()) == []


def test_calls_from_several_threads(path: Path) -> None:
    artifact = runtime.open(path)
    images = [tiny.image(seed) for seed in range(4)]
    expected = [artifact(image)[0] for image in images]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if not np.array_equal(artifact(images[number])[0], expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_numbers_of_threads(path: Path) -> None:
    most = runtime.open(path).threads
    assert code_of(lambda: runtime.open(path, threads=0)) == "S0909"
    assert code_of(lambda: runtime.open(path, threads=most + 1)) == "S0909"
    runtime.open(path, threads=1).self_test()


THREADS = """
import os, sys
from specc import runtime

def here():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("Threads:")).split()[1])

before, cores = here(), os.sched_getaffinity(0)
runtime.open(sys.argv[1], threads=1).self_test()
assert here() == before, "one thread is the caller's own"
for count in (2, 1, 2):
    runtime.open(sys.argv[1], threads=count).self_test()
assert here() <= before + 1, "the second thread is kept"
assert os.sched_getaffinity(0) == cores
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_are_used_as_said_and_stay_on_no_core(path: Path) -> None:
    """In a process of its own: other libraries here have threads, too."""
    done = subprocess.run([sys.executable, "-c", THREADS, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("library", [b"", b"no library", b"\x7fELF" + bytes(60)])
def test_a_library_that_is_none(contents: Contents, library: bytes) -> None:
    assert code_of(Artifact(replace(contents, library=library)).load) == "S0905"


def test_an_opened_artifact_saves_the_same_bytes(path: Path, tmp_path: Path) -> None:
    runtime.open(path).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ImportError(name + " is refused")

sys.meta_path.insert(0, Refuse())
from specc.cli import execute

code = execute(["run", {path!r}, "--self-test"])
loaded = {{"tvm", "tvm_ffi", "torch", "networkx", "lark"}} & set(sys.modules)
assert not loaded, loaded
sys.exit(code)
"""


def test_it_runs_where_torch_and_the_compiler_cannot_be_imported(path: Path) -> None:
    program = ALONE.format(path=str(path), refused='("torch", "tvm", "tvm_ffi", "networkx", "lark", "safetensors")')
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "differs by" in done.stdout


def test_importing_it_brings_little_along() -> None:
    """It is imported at the start of programs: no compiler, and nothing that only compiling needs."""
    program = "import sys, specc.runtime; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = ["torch", "tvm", "tvm_ffi", "networkx", "lark", "sympy", "safetensors", "cryptography", "click", "rich"]
    assert not {name.partition(".")[0] for name in found} & set(heavy)
    ours = {name for name in found if name.startswith("specc.")}
    needed = [
        "artifact",
        "codes",
        "compare",
        "diagnostics",
        "dlpack",
        "gpus",
        "ir",
        "ir.array",
        "ir.dtypes",
        "magic",
        "manifest",
        "model",
        "runtime",
        "signature",
        "targets",
    ]
    assert ours == {f"specc.{name}" for name in needed}


def test_scratch_memory_stays_and_is_each_thread_s_own(path: Path) -> None:
    """Several numbers of threads, one after the other, on one model: what they share out is freed and taken anew."""
    model = Artifact(container.read(path), 1)._loaded()
    image = tiny.image()
    (expected,) = model.run([image])
    for threads in (2, 1, 2):
        assert model._library.specc_set_threads(model._handle, threads) == 0
        assert np.array_equal(model.run([image])[0], expected)
    assert model._library.specc_set_threads(model._handle, 0) != 0
    assert np.array_equal(model.run([image])[0], expected)
