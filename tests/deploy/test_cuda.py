"""Artifacts for NVIDIA GPUs: made without one, and run on a driver that emulates one (`tests/emulation`).

What a real GPU gives is asked by `tests/deploy/on_gpu.py`.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from emulation import build_driver, compile_artifact

import specc
from specc import artifact as container
from specc import grammar, targets
from specc.backends.tvm.cuda import nvrtc
from specc.manifest import Machine
from specc.passes.registry import parse
from specc.records import Record
from specc.unpack import unpack

EXAMPLES = Path(__file__).parents[2] / "examples"
GPUS = ("sm_80", "sm_89", "sm_90")
pytestmark = pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC: pip install nvidia-cuda-nvrtc-cu12")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifact, its kernels for this processor, and the driver that runs these."""
    folder = tmp_path_factory.mktemp("cuda")
    graph = specc.load(EXAMPLES / "digits.specc")
    compile_artifact(graph, folder / "digits.artifact")
    build_driver(folder)
    return folder


def emulate(folder: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with the emulated driver; the log of what was asked of it is `folder / "log"`."""
    (folder / "log").unlink(missing_ok=True)
    added = {"LD_LIBRARY_PATH": str(folder), "EMULATED_KERNELS": str(folder / "digits.so")}
    environment = os.environ | added | {"EMULATED_LOG": str(folder / "log")} | settings
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def specc_run(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    words = ("-m", "specc", "run", "digits.artifact", "--self-test", "--tolerance", "1e-5")
    return emulate(folder, sys.executable, *words, **settings)


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


def count(folder: Path, name: str) -> int:
    return sum(line.split()[0] == name for line in log(folder))


# ---- what is in it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpu", GPUS)
def test_it_holds_machine_code_of_its_architecture_and_no_source(gpu: str) -> None:
    artifact = specc.compile(specc.load(EXAMPLES / "digits.specc"), target=f"cuda:{gpu}")
    assert artifact.manifest.machine == Machine(f"cuda:{gpu}", "x86_64", (gpu,))
    library = artifact.contents.library
    files = [match.start() for match in re.finditer(b"\x7fELF", library)]
    images = [start for start in files if library[start + 18 : start + 20] == b"\xbe\0"]
    assert len(images) == 1, "one cubin: an ELF file for the machine EM_CUDA"
    (flags,) = struct.unpack_from("<I", library, images[0] + 48)
    assert flags & 0xFF == int(gpu[3:])
    assert b".text.mean_" in library[images[0] :]
    for text in (b"__global__", b"threadIdx", b".visible .entry", b".target sm"):
        assert text not in library


def test_the_library_needs_libc_alone(digits: Path) -> None:
    (digits / "library.so").write_bytes(container.read(digits / "digits.artifact").library)
    done = subprocess.run(["ldd", str(digits / "library.so")], capture_output=True, text=True, check=True)
    names = {line.split()[0].rpartition("/")[2].partition(".so")[0] for line in done.stdout.splitlines()}
    assert names <= {"linux-vdso", "libc", "libdl", "ld-linux-x86-64"}


# ---- running ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_it_computes_what_the_reference_computes(order: str, digits: Path) -> None:
    done = specc_run(digits, EMULATED_ORDER=order)
    assert done.returncode == 0, done.stderr
    assert log(digits)[-1].endswith(" 0 contexts, 0 bytes left")


@pytest.mark.parametrize(("precision", "name"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_layers_of_16_bits_are_computed_on_tensor_cores(precision: str, name: str, digits: Path) -> None:
    graph, place = specc.load(EXAMPLES / "digits.specc"), digits / f"{precision}.artifact"
    library = compile_artifact(graph, place, precision=precision)
    assert container.read(place).manifest.facts["precision"]["layers"] == 3
    products = library.with_suffix(".cc").read_text().count(f"specc_multiply_{name}((&(")
    assert products == 2, "the third one has a single row"
    for order in ("forward", "reverse"):
        words = (sys.executable, "-m", "specc", "run", place.name, "--self-test")
        done = emulate(digits, *words, EMULATED_KERNELS=str(library), EMULATED_ORDER=order)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "fp16", "bf16"])
@pytest.mark.parametrize("name", ["repvit/m1_1", "efficientnet/b0", "convnext/tiny", "mobilenetv2/w050"])
def test_networks_of_the_zoo(name: str, precision: str, digits: Path) -> None:
    graph, shapes = specc.load(f"zoo:{name}"), {"n": 1, "h": 64, "w": 64}
    library = compile_artifact(graph, digits / "zoo.artifact", shapes=shapes, precision=precision)
    words = (sys.executable, "-m", "specc", "run", "zoo.artifact", "--self-test", "--tolerance", "1e-5")
    done = emulate(digits, *words, EMULATED_KERNELS=str(library))
    assert done.returncode == 0, done.stderr


_BLOCKS = """specc 1
use std.vit: TransformerBlock
use std.conv: SqueezeExcite

block Next(x: [n, c, h, w]) -> [n, c, h, w]:
    dw = conv2d(x, c, k=7, groups=c)
    norm = layer_norm(dw, axis=1)
    up = conv2d(norm, 4 * c)
    down = conv2d(gelu(up), c)
    return x + down

network Blocks(image: [n = 1, 3, 32, 32]) -> [n, 10]:
    stem = conv2d(image, 16, k=4, s=4)
    next = Next(stem)
    se = SqueezeExcite(next)
    block = TransformerBlock(rearrange(se, "n c h w -> n (h w) c"), 2)
    head = linear(mean(block, axes=[1]), 10)
    return head
"""


def test_blocks_of_networks_are_few_launches(digits: Path) -> None:
    library = compile_artifact(grammar.loads(_BLOCKS), digits / "blocks.artifact")
    words = (sys.executable, "-m", "specc", "run", "blocks.artifact", "--self-test", "--tolerance", "1e-5")
    for order in ("forward", "reverse", "5"):
        done = emulate(digits, *words, EMULATED_KERNELS=str(library), EMULATED_ORDER=order)
        assert done.returncode == 0, done.stderr
    launches = [line.split()[1] for line in log(digits) if line.startswith("cuLaunchKernel")]
    for title, times in (("layer_norm", 3), ("mean_conv2d", 1), ("matmul", 1)):
        assert sum(title in name for name in launches) == times, launches
    assert len(launches) == 17


_SEPARABLE = """specc 1

network Separable(image: [n = 2, 3, 36, 44]) -> [n, 10]:
    stem = conv2d(image, 24, k=3, s=2, p=1)
    first = relu(stem)
    deep = conv2d(first, 24, k=5, p=2, groups=24)
    wide = conv2d(relu(deep), 24)
    head = linear(global_avg_pool(relu(wide + first)), 10)
    return head
"""


@pytest.mark.parametrize("precision", ["float32", "fp16", "bf16"])
def test_a_depthwise_and_a_1x1_convolution_are_one_kernel(precision: str, digits: Path) -> None:
    place = digits / f"separable-{precision}.artifact"
    library = compile_artifact(grammar.loads(_SEPARABLE), place, precision=precision)
    kernels = container.read(place).manifest.sizes[0].facts["kernels"]
    (found,) = (kernel for kernel in kernels if kernel["template"] == "separable")
    words = (sys.executable, "-m", "specc", "run", place.name, "--self-test")
    done = emulate(digits, *words, EMULATED_KERNELS=str(library))
    assert done.returncode == 0, done.stderr
    assert found["configuration"]["fused"] is (precision != "float32")
    launches = [line.split()[1] for line in log(digits) if line.startswith("cuLaunchKernel")]
    assert sum(found["kernel"] in name for name in launches) == (2 if precision == "float32" else 1), launches


_INVERTED = """specc 1

block Inverted(x: [n, c, h, w], s: int = 1) -> [n, c, h // s, w // s]:
    wide = conv2d(x, 4 * c)
    deep = conv2d(relu6(wide), 4 * c, k=3, s=s, p=1, groups=4 * c)
    return conv2d(relu6(deep), c)

network MobileNet(image: [n = 1, 3, 64, 48]) -> [n, 10]:
    stem = conv2d(image, 16, k=3, s=2, p=1)
    first = Inverted(stem, s=2)
    second = Inverted(first)
    wide = conv2d(first + second, 64)
    deep = conv2d(silu(wide), 64, k=5, p=2, groups=64)
    few = conv2d(global_avg_pool(silu(deep), keep=true), 8)
    gate = conv2d(relu(few), 64)
    last = conv2d(silu(deep) * sigmoid(gate), 16)
    head = linear(global_avg_pool(last), 10)
    return head
"""


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_inverted_residuals_are_one_kernel(precision: str, digits: Path) -> None:
    """Whole ones, and up to the squeeze-excite where there is one."""
    place = digits / f"inverted-{precision}.artifact"
    library = compile_artifact(grammar.loads(_INVERTED), place, precision=precision)
    kernels = container.read(place).manifest.sizes[0].facts["kernels"]
    found = [kernel["configuration"]["fused"] for kernel in kernels if kernel["template"] == "expansion"]
    assert found == (["all"] * 3 if precision == "fp16" else ["front", "front", "all"])
    words = (sys.executable, "-m", "specc", "run", place.name, "--self-test")
    done = emulate(digits, *words, EMULATED_KERNELS=str(library))
    assert done.returncode == 0, done.stderr


_RESIDUAL = """specc 1

block Basic(x: [n, c, h, w]) -> [n, c, h, w]:
    conv1 = conv2d(x, c, k=3, p=1)
    conv2 = conv2d(relu(conv1), c, k=3, p=1)
    return relu(conv2 + x)

network Residual(image: [n, 3, 26, 22]) -> [n, 10]:
    stem = conv2d(image, 20, k=3, s=2, p=1)
    layer1 = Basic(relu(stem))
    down = conv2d(layer1, 36, k=3)
    layer2 = Basic(relu(down))
    head = linear(global_avg_pool(layer2), 10)
    return head
"""


def test_a_network_by_minimal_filtering(digits: Path) -> None:
    """Records choose it for one size; at the other one, what reads the same weights follows."""
    graph, target, shapes = grammar.loads(_RESIDUAL), "cuda:sm_90", [{"n": 1}, {"n": 2}]

    def products(path: Path) -> list[tuple[Any, str]]:
        sizes = container.read(path).manifest.sizes
        return [
            (kernel, kernel["configuration"]["winograd"])
            for size in sizes
            for kernel in size.facts["kernels"]
            if "winograd" in kernel["configuration"]
        ]

    specc.compile(graph, target=target, shapes=shapes[0], tuning="none").save(digits / "direct.artifact")
    direct = products(digits / "direct.artifact")
    assert len(direct) == 6 and {tile for _, tile in direct} == {"none"}, "so small a network gains nothing by it"
    records = digits / "records"
    with records.open("w") as file:
        for (kernel, _), tile in zip(direct, ("2x3", "4x4", "2x2", "3x4", "4x2", "4x4"), strict=True):
            configuration = {"winograd": tile, "tile": "32x32", "splits": 1}
            file.write(Record(target, kernel["kernel"], configuration, True, 0.5, 1.0, 1, "").line())
    library = compile_artifact(graph, digits / "residual.artifact", shapes=shapes, tuning=records)
    found = products(digits / "residual.artifact")
    assert len(found) == 12 and "none" not in {tile for _, tile in found}
    assert {kernel["template"] for kernel, _ in found} == {"winograd"}
    words = (sys.executable, "-m", "specc", "run", "residual.artifact", "--self-test", "--tolerance", "1e-5")
    for order in ("forward", "reverse"):
        done = emulate(digits, *words, EMULATED_KERNELS=str(library), EMULATED_ORDER=order)
        assert done.returncode == 0, done.stderr
    launches = [line.split()[1] for line in log(digits) if line.startswith("cuLaunchKernel")]
    for kernel, _ in found:
        names = {name for name in launches if kernel["kernel"] in name}
        assert len(names) == 3, launches


_TRANSFORMER = """specc 1
use std.vit: TransformerBlock

network Transformer(tokens: [n = 1, l = 80, 64]) -> [n, l, 64]:
    return TransformerBlock(tokens, 2)
"""


@pytest.mark.parametrize(("precision", "name"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_attention_of_16_bits_is_one_launch_on_tensor_cores(precision: str, name: str, digits: Path) -> None:
    library = compile_artifact(grammar.loads(_TRANSFORMER), digits / f"t{precision}.artifact", precision=precision)
    kernels = library.with_suffix(".cc").read_text().split('extern "C" __global__')
    (attention,) = (kernel for kernel in kernels if "specc_power_of_two(" in kernel and "blockIdx" in kernel)
    assert attention.count(f"specc_multiply_{name}((&(") == 2 and "specc_copy_16(" in attention
    words = (sys.executable, "-m", "specc", "run", f"t{precision}.artifact", "--self-test")
    for order in ("forward", "reverse"):
        done = emulate(digits, *words, EMULATED_KERNELS=str(library), EMULATED_ORDER=order)
        assert done.returncode == 0, done.stderr


_THREE = """
import json, numpy
from specc import runtime
network = runtime.open("digits.artifact")
given = network.contents.samples[0].inputs
results = [network(*given)[0] for _ in range(3)] + [network(*(array * 2 for array in given))[0]]
print(json.dumps({"results": [each.ravel().tolist() for each in results], "profile": network.profile(*given)}))
"""


def test_runs_on_the_same_addresses_become_a_graph(digits: Path) -> None:
    done = emulate(digits, sys.executable, "-c", _THREE)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    first, second, third, other = (np.array(each) for each in found["results"])
    assert np.array_equal(first, second) and np.array_equal(first, third) and not np.array_equal(first, other)
    kernels = len(container.read(digits / "digits.artifact").manifest.sizes[0].facts["kernels"])
    assert len(found["profile"]) == kernels and all(seconds > 0 for seconds in found["profile"])
    assert count(digits, "cuStreamBeginCapture_v2") == 1 and count(digits, "cuGraphLaunch") == 3
    launches = [line.split()[1] for line in log(digits) if line.startswith("cuLaunchKernel")]
    each = len(launches) // 3
    assert each >= kernels and launches == launches[:each] * 3, "the first run, the graph, the profile"


def test_several_sizes(digits: Path) -> None:
    graph = specc.load(EXAMPLES / "digits.specc")
    shapes = [{"n": 1}, {"n": 3}]
    compile_artifact(graph, digits / "sizes.artifact", shapes=shapes)
    words = (sys.executable, "-m", "specc", "run", "sizes.artifact", "--self-test", "--tolerance", "1e-5")
    done = emulate(digits, *words, EMULATED_KERNELS=str(digits / "sizes.so"))
    assert done.returncode == 0, done.stderr


def test_the_roofs_of_processors_are_not_its_roofs(digits: Path) -> None:
    for words in ((), ("--static",)):
        done = emulate(digits, sys.executable, "-m", "specc", "profile", "digits.artifact", *words)
        assert done.returncode == 1 and "error[S1006]" in done.stderr


def test_a_program_in_c(digits: Path) -> None:
    unpack(container.read(digits / "digits.artifact"), digits / "net")
    source = str(EXAMPLES / "deploy" / "c" / "classify.c")
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-Inet", "-Lnet", "-Wl,-rpath,$ORIGIN/net")
    subprocess.run(["gcc", source, *flags, "-lnetwork", "-o", "classify"], cwd=digits, check=True)
    done = emulate(digits, "./classify", "net/weights.bin", "net/sample/image.bin")
    assert done.returncode == 0, done.stderr
    (expected,) = container.read(digits / "digits.artifact").samples[0].outputs
    assert done.stdout.startswith(f"Digits: class {int(expected.argmax())} of 10, ")
    assert log(digits)[-1].endswith(" 0 contexts, 0 bytes left")


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_without_a_driver_it_says_what_is_missing(digits: Path) -> None:
    command = [sys.executable, "-m", "specc", "run", "digits.artifact"]
    done = subprocess.run(command, cwd=digits, capture_output=True, text=True, check=False)
    if done.returncode:  # this machine has no GPU
        assert "error[S0917]" in done.stderr and "NVIDIA driver" in done.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"EMULATED_GPU": "none"}, "finds no GPU"),
        ({"EMULATED_GPU": "80"}, "here is Emulated 80 (sm_80)"),
        ({"EMULATED_GPU": "100"}, "here is Emulated 100 (sm_100)"),
        ({"EMULATED_FAILURE": "cuInit"}, "does not start"),
    ],
)
def test_another_gpu_is_refused(settings: dict[str, str], words: str, digits: Path) -> None:
    done = specc_run(digits, **settings)
    assert done.returncode == 1
    assert "error[S0917]" in done.stderr and words in done.stderr
    assert not count(digits, "cuDevicePrimaryCtxRetain")


def test_a_later_gpu_of_the_generation_is_taken(digits: Path) -> None:
    assert specc_run(digits, EMULATED_GPU="93").returncode == 0


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"EMULATED_MEMORY": "1000"}, "S0905", "not enough memory on the GPU"),
        ({"EMULATED_FAILURE": "cuModuleLoadData"}, "S0905", "reports a failure"),
        ({"EMULATED_FAILURE": "cuStreamCreate"}, "S0905", "reports a failure"),
        ({"EMULATED_FAILURE": "cuMemcpyAsync"}, "S0905", "reports a failure"),
        ({"EMULATED_FAILURE": "cuLaunchKernel"}, "S0907", "reports a failure"),
    ],
)
def test_failures_are_told_and_leave_nothing_behind(
    settings: dict[str, str], code: str, words: str, digits: Path
) -> None:
    done = specc_run(digits, **settings)
    assert done.returncode == 1
    assert f"error[{code}]" in done.stderr and words in done.stderr
    assert log(digits)[-1].endswith(" 0 contexts, 0 bytes left")


_SCAN = """specc 1
block Inner(x: [n], h: [n]) -> ([n], [n]):
    h = tanh(0.5 * h + x)
    return h, h

block Outer(x: [n, w], h: [n, w]) -> ([n, w], [n, w]):
    ys, last = scan(Inner, x, state=constant(0, [n]), axis=1, reverse=true)
    h = linear(h, w) + ys
    return softmax(h, axis=-1), h

network N(x: [n = 2, l = 5, 40]) -> [n, l, 40]:
    y = scan(Outer, x, state=constant(0, [n, 40]))
    return y[0]
"""


def test_a_loop_in_a_loop(digits: Path) -> None:
    graph = grammar.loads(_SCAN)
    compile_artifact(graph, digits / "scan.artifact")
    words = (sys.executable, "-m", "specc", "run", "scan.artifact", "--self-test", "--tolerance", "1e-5")
    for order in ("forward", "reverse"):
        done = emulate(digits, *words, EMULATED_KERNELS=str(digits / "scan.so"), EMULATED_ORDER=order)
        assert done.returncode == 0, done.stderr


def test_blocks_of_channels_are_refused() -> None:
    passes = parse("canonicalize,reparam,canonicalize,layout{block=16},fusion")
    with pytest.raises(specc.SpeccError, match="no kernels in blocks of channels for cuda:sm_80"):
        specc.compile(specc.load(EXAMPLES / "digits.specc"), target="cuda:sm_80", passes=passes)


def test_the_table_has_a_row_for_each_gpu() -> None:
    assert [t.gpu for t in targets.TARGETS.values() if t.gpu] == list(GPUS)
    assert targets.native().gpu == ""


# ---- tensors in the GPU's memory -------------------------------------------------------------------------------------

_ON_GPU = """
import ctypes, numpy
from specc import runtime
from specc.dlpack import _Tensor

driver = ctypes.CDLL("libcuda.so.1")

class OnGpu:
    "What a library of tensors gives: memory of the driver's, told of by DLPack. The emulated GPU's is readable here."

    def __init__(self, array, strides=None):
        memory = ctypes.c_size_t()
        assert not driver.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(array.nbytes))
        self.array = numpy.frombuffer((ctypes.c_char * array.nbytes).from_address(memory.value), array.dtype)
        self.array = self.array.reshape(array.shape)
        self.array[...] = array
        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        strides = strides and (ctypes.c_int64 * array.ndim)(*strides)
        self.told = _Tensor(memory.value, 2, 0, array.ndim, 2, 8 * array.itemsize, 1, shape, strides, 0), shape, strides

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, stream):
        assert stream == 1
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return make(ctypes.addressof(self.told[0]), b"dltensor", None)

network = runtime.open("digits.artifact")
(image,) = network.contents.samples[0].inputs
(expected,) = network(image)
tensor, result = OnGpu(image), OnGpu(numpy.zeros_like(expected))
"""


def test_tensors_in_its_memory_are_used_where_they_lie(digits: Path) -> None:
    program = """
for _ in range(3):
    result.array[...] = 0
    network.into([result], tensor)
    assert numpy.array_equal(result.array, expected)
assert numpy.array_equal(network(tensor)[0], expected)
own = numpy.zeros_like(expected)
network.into([own], image)
assert numpy.array_equal(own, expected)
"""
    done = emulate(digits, sys.executable, "-c", _ON_GPU + program)
    assert done.returncode == 0, done.stderr
    copies = [line for line in log(digits) if line.startswith("cuMemcpyAsync")]
    assert len(copies) == 1 + 2 + 1 + 2, "weights; the first run; a result to the processor; a run with arrays"
    assert count(digits, "cuGraphLaunch") == 2


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("network.into([result], OnGpu(image, strides=(64, 64, 1, 8)))", "S0918", "has gaps or another order"),
        ("network.into([OnGpu(numpy.zeros((1, 11), 'float32'))], image)", "S0911", "`output` has the shape [1, 10]"),
        ("network.into([OnGpu(numpy.zeros((1, 10)))], image)", "S0912", "`output` is float32, not float64"),
        ("network.into([], image)", "S0910", "0 outputs are given, and there are 1"),
        ("network.into([numpy.zeros((1, 20), 'float32')[:, ::2]], image)", "S0918", "is no dense array"),
    ],
)
def test_outputs_that_do_not_fit(call: str, code: str, words: str, digits: Path) -> None:
    done = emulate(digits, sys.executable, "-c", _ON_GPU + call)
    assert done.returncode == 1
    assert f"error[{code}]" in done.stderr and words in done.stderr


def test_a_network_for_the_processor_takes_none() -> None:
    class OnGpu:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    with pytest.raises(specc.SpeccError, match="S0918"):
        tiny.artifact()(OnGpu())
