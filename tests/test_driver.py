"""From a spec to an artifact: what goes in, what the manifest says of it, and what is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny

import specc
from specc import driver, grammar
from specc.compare import difference
from specc.diagnostics import SpeccError
from specc.driver import Progress
from specc.ir.graph import Graph, Value
from specc.ir.text import parse_graph
from specc.ir.types import TensorType
from specc.passes import registry
from specc.passes.rewrite import Journal
from specc.verify import verify
from specc.weights import random_weights


def codes_of(action: object) -> list[str]:
    with pytest.raises(SpeccError) as caught:
        action()  # type: ignore[operator]
    return [diagnostic.code for diagnostic in caught.value.diagnostics]


def test_importing_specc_imports_nothing_else() -> None:
    program = (
        "import sys; before = set(sys.modules); import specc\n"
        "new = {m for m in set(sys.modules) - before if not m.startswith(('specc', '__future__', 'typing'))}\n"
        "sys.exit(', '.join(sorted(new & {'numpy', 'torch', 'tvm', 'networkx', 'click', 'lark', 'rich'})) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    assert all(getattr(specc, name) is not None for name in specc.__all__)
    assert set(specc.__all__) <= set(dir(specc))
    with pytest.raises(AttributeError, match="compil"):
        specc.compil  # noqa: B018


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_computes_what_torch_does(level: int) -> None:
    import torch

    from specc.weights import random_weights

    graph, image = tiny.graph(), tiny.image()
    weights = random_weights(graph, seed=5)
    module = specc.to_torch(graph).double().eval()
    module.load_state_dict({key: torch.from_numpy(np.asarray(array)) for key, array in weights.items()})
    with torch.no_grad():
        expected = module(torch.from_numpy(image).double()).numpy()
    results = specc.compile(graph, weights=weights, level=level)(image)
    assert difference(results[0], expected) < 1e-5


def test_a_state_dict_and_its_file_give_the_same_artifact(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = specc.to_torch(tiny.graph()).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    specc.compile(tiny.graph(), weights=state).save(tmp_path / "one")
    specc.compile(tiny.graph(), weights=tmp_path / "w.safetensors").save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_state_dict_in_bfloat16() -> None:
    state = specc.to_torch(tiny.graph()).bfloat16().state_dict()
    wide = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    results = [specc.compile(tiny.graph(), weights=weights)(tiny.image())[0] for weights in (state, wide)]
    assert np.array_equal(*results)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    tiny.artifact().save(tmp_path / "one")
    specc.compile(tiny.graph()).save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_shapes_are_chosen_or_have_their_defaults() -> None:
    artifact = specc.compile(tiny.graph(), shapes={"n": 2, "h": 12})
    assert artifact.manifest.inputs[0].shape == (2, 3, 12, 8)
    artifact.self_test()


def test_the_manifest_tells_what_was_done() -> None:
    manifest = tiny.artifact().manifest
    assert [(spec.name, spec.shape, spec.dtype) for spec in manifest.inputs] == [("image", (1, 3, 8, 8), "float32")]
    assert [(spec.name, spec.shape, spec.dtype) for spec in manifest.outputs] == [("output", (1, 5), "float32")]
    assert manifest.facts["weights"]["seed"] == 0
    reparam = next(step for step in manifest.sizes[0].facts["passes"] if step["pass"] == "reparam")
    assert "3 convolutions into 2, 3 batch norms into 0" in reparam["summary"]
    assert manifest.sizes[0].facts["kernels"]


def test_the_manifest_holds_the_spec() -> None:
    """The graph in the manifest is the spec's, before any pass: what an artifact has to answer for."""
    graph = parse_graph(tiny.artifact().manifest.facts["spec"]["graph"])
    assert graph.count("batch_norm") == 3
    assert graph.parameters == tiny.graph().parameters


def test_the_texts_of_the_spec_are_hashed(tmp_path: Path) -> None:
    path = tiny.write(tmp_path)
    before = driver.digests(driver.spec_sources(path))
    assert set(before) == {"tiny.specc", "std/conv.specc"}
    path.write_text(tiny.TEXT + "\n")
    after = driver.digests(driver.spec_sources(path))
    assert before["tiny.specc"] != after["tiny.specc"]
    assert before["std/conv.specc"] == after["std/conv.specc"]


def test_the_expected_output_is_the_specs_and_not_the_passes() -> None:
    """A pass that computes something else makes an artifact that fails its own test."""
    assert codes_of(specc.compile(tiny.graph(), passes=passes_with(Spoil())).self_test) == ["S0908"]


def test_progress_is_told() -> None:
    told: list[Progress] = []
    specc.compile(tiny.graph(), progress=told.append)
    assert [now.stage for now in told if now.done == now.total] == ["passes", "weights", "kernels", "sample"]
    assert [now.step.name for now in told if now.step] == [str(p) for p in pipeline()]


def pipeline() -> tuple[registry.Pass, ...]:
    from specc import targets

    return registry.pipeline(2, targets.find("native"))


def test_a_dump_holds_every_step(tmp_path: Path) -> None:
    specc.compile(tiny.graph(), dump=tmp_path / "deep" / "dump")
    files = sorted((tmp_path / "deep" / "dump").iterdir())
    assert [file.name for file in files] == [
        f"{number:02}-{name}.txt" for number, name in enumerate(["spec", *(p.name for p in pipeline())])
    ]
    counts = [parse_graph(file.read_text(), file.name).count("batch_norm") for file in files]
    assert counts[0] == 3
    assert counts[-1] == 0


def test_a_dump_that_fills_the_disk_leaves_no_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os_replace, texts = os.replace, []

    def replace(source: str, goal: Path) -> None:
        texts.append(goal)
        if len(texts) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        os_replace(source, goal)

    monkeypatch.setattr("specc.files.os.replace", replace)
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(SpeccError, match="No space left"):
        specc.compile(tiny.graph(), dump=tmp_path / "deep" / "dump")
    assert len(texts) == 3
    assert [each.name for each in tmp_path.rglob("*")] == ["mine"]


def test_a_dump_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert codes_of(lambda: specc.compile(tiny.graph(), dump=tmp_path / "file")) == ["S0002"]


UNMERGED = tiny.TEXT.replace("joined = conv3 + conv1 + x", "joined = conv3 + conv1 + gelu(x)")


def test_a_claim_that_does_not_hold_is_an_error_at_its_place() -> None:
    graph = grammar.loads(UNMERGED, variant="large", file="tiny.specc")
    with pytest.raises(SpeccError) as caught:
        specc.compile(graph)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "S0507"
    line = UNMERGED[: UNMERGED.index("ensure")].count("\n") + 1
    assert diagnostic.labels[0].span.line == line
    assert "`add` is left" in diagnostic.message
    assert [frame.block for frame in diagnostic.stack] == ["Tiny", "Branches"]


def test_a_value_that_merges_into_the_next_operator_is_merged() -> None:
    text = tiny.TEXT.replace("ConvBN(image, width, k=3, s=2)", "conv2d(batch_norm(image), width, k=3, s=2, p=0)")
    text = text.replace("    stem =", "    norm = batch_norm(image)\n    ensure norm merges into conv2d\n    stem =")
    text = text.replace("conv2d(batch_norm(image)", "conv2d(norm")
    specc.compile(grammar.loads(text, variant="small")).self_test()


def test_claims_are_not_asked_where_nothing_is_merged() -> None:
    specc.compile(grammar.loads(UNMERGED, variant="small"), level=0).self_test()


def test_a_network_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _: 40)  # 40 pages of 40 bytes
    assert codes_of(lambda: specc.compile(tiny.graph())) == ["S0804"]


def test_wrong_wishes() -> None:
    graph = tiny.graph()
    assert codes_of(lambda: specc.compile(graph, target="x86-64-v9")) == ["S0801"]
    assert codes_of(lambda: specc.compile(graph, target=None)) == ["S0801"]  # type: ignore[arg-type]
    with pytest.raises(specc.SpeccError, match="this is a dict") as raised:  # weights where a target stands
        specc.compile(graph, {"weight": np.zeros(1)})  # type: ignore[arg-type]
    assert "weights=" in str(raised.value)
    assert codes_of(lambda: specc.compile(graph, shapes={"z": 3})) == ["S0703"]
    assert codes_of(lambda: specc.compile(graph, shapes={"h": 0})) == ["S0703"]
    assert codes_of(lambda: specc.compile(graph, weights={})) == ["S0603"]
    assert codes_of(lambda: specc.compile(graph, weights="absent.safetensors")) == ["S0601"]


# ---- the judge ------------------------------------------------------------------------------------------------------


class Spoil(registry.Pass):
    """A pass that is wrong: it scales the weights of the last convolution."""

    name: ClassVar[str] = "spoil"
    summary: ClassVar[str] = "breaks a convolution"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        graph = graph.copy()
        (*_, last) = (i for i in graph.live() if graph.node(i).op == "conv2d")
        weight = graph.operands(last)[1]
        factor = graph.constant(1.01)
        graph.set_operand(last, 1, graph.apply("mul", [weight, factor]))
        return graph


@dataclass(frozen=True)
class Swap(registry.Pass):
    """A pass that is right: it adds zero to every output."""

    name: ClassVar[str] = "swap"
    summary: ClassVar[str] = "adds zero"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        graph = graph.copy()
        graph.outputs = [graph.apply("add", [value, graph.constant(0.0)]) for value in graph.outputs]
        return graph


def passes_with(extra: registry.Pass) -> tuple[registry.Pass, ...]:
    """The usual passes, with another one behind re-parameterization."""
    first, second, *rest = pipeline()
    return (first, second, extra, *rest)


def test_every_pass_and_the_artifact_are_judged() -> None:
    verdicts = verify(tiny.graph(), per_pass=True)
    assert [v.subject for v in verdicts[:-1]] == [str(p) for p in pipeline()]
    assert verdicts[-1].subject.startswith("artifact for ")
    assert all(verdict.holds for verdict in verdicts)


def test_a_wrong_pass_and_its_first_wrong_node_are_named() -> None:
    *before, last = verify(tiny.graph(), per_pass=True, passes=passes_with(Spoil()))
    assert [verdict.holds for verdict in before] == [True, True]
    assert last.subject == "spoil"
    assert not last.holds
    assert last.diagnostic is not None
    assert last.diagnostic.code == "S0705"
    assert "first in `conv2d` at `mix" in last.diagnostic.message
    assert last.diagnostic.labels


def test_without_per_pass_the_artifact_is_at_fault() -> None:
    (verdict,) = verify(tiny.graph(), passes=passes_with(Spoil()))
    assert verdict.diagnostic is not None
    assert verdict.diagnostic.code == "S0706"


def test_a_right_pass_is_not_blamed() -> None:
    assert all(verdict.holds for verdict in verify(tiny.graph(), per_pass=True, passes=passes_with(Swap())))


def test_several_outputs_have_names_of_their_own() -> None:
    graph = tiny.graph().copy()
    relu = next(i for i in graph.live() if graph.node(i).op == "relu")
    graph.outputs.append(Value(relu))
    artifact = specc.compile(graph)
    assert [spec.name for spec in artifact.manifest.outputs] == ["output0", "output1"]
    assert len(artifact.self_test()) == 2


def test_a_network_of_numbers_is_an_artifact(tmp_path: Path) -> None:
    artifact = specc.compile(grammar.loads("specc 1\nnetwork Number(x: []) -> []:\n    return relu(x)\n"))
    artifact.save(tmp_path / "number")
    assert specc.open(tmp_path / "number").self_test() == [0]
    (result,) = artifact(np.float32(3))
    assert result.shape == () and result == 3


@pytest.mark.parametrize("level", [3, -1, "2"])
def test_a_level_that_does_not_exist_is_refused(level: int) -> None:
    assert codes_of(lambda: specc.compile(tiny.graph(), level=level)) == ["S1001"]


def test_weights_that_give_no_numbers_are_refused() -> None:
    """A negative variance, as a damaged checkpoint has it: NaN equals nothing, and so everything."""
    graph = tiny.graph()
    weights = random_weights(graph)
    key = next(key for key in weights if key.endswith("running_var"))
    weights[key] = -weights[key]
    for judge in (specc.compile, verify):
        with pytest.raises(SpeccError) as raised:
            judge(graph, weights=weights)  # type: ignore[operator]
        (found,) = raised.value.diagnostics
        assert found.code == "S0606"
        assert key.removesuffix(".running_var") in found.message


def wide() -> Graph:
    """Much at the first stage, little behind it."""
    graph = Graph("Wide")
    x = graph.input("x", TensorType((1, 3, 32, 32)))
    a = graph.apply("gelu", [graph.call("conv2d", [x], {"out": 32, "k": 3}, "a")])
    b = graph.apply("gelu", [graph.call("conv2d", [a], {"out": 32, "k": 3, "s": 2}, "b")])
    graph.outputs = [graph.apply("mean", [graph.call("conv2d", [b], {"out": 16}, "c")], {"axes": (2, 3)})]
    return graph


def test_strips_need_less_memory_and_give_the_same() -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    whole, cut = specc.compile(wide()), specc.compile(wide(), strips=4)
    arenas = [artifact.manifest.sizes[0].facts["memory"]["arena"] for artifact in (whole, cut)]
    assert arenas[1] < 0.6 * arenas[0]
    assert difference(whole(image)[0], cut(image)[0]) < 1e-5
    limited = specc.compile(wide(), peak=arenas[0] - 1)
    assert "strips{count=2}" in [step["pass"] for step in limited.manifest.sizes[0].facts["passes"]]
    assert limited.manifest.sizes[0].facts["memory"]["arena"] < arenas[0]
    assert "strips" not in str(
        [step["pass"] for step in specc.compile(wide(), peak=arenas[0]).manifest.sizes[0].facts["passes"]]
    )


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="the system has no pages of 2 MB")
@pytest.mark.parametrize(("extent", "pages"), [(64, 0), (150, 0), (160, 1), (248, 1), (256, 2), (304, 2), (308, 3)])
def test_tensors_lie_in_large_pages_as_far_as_they_fill_them(extent: int, pages: int, tmp_path: Path) -> None:
    """A single page is one of these from three quarters on, and a last one of which a twentieth of all is left."""
    graph = Graph("Large")
    x = graph.input("x", TensorType((1, 3, extent, extent)))
    graph.outputs = [graph.apply("mean", [graph.call("conv2d", [x], {"out": 16, "k": 3}, "a")], {"axes": (2, 3)})]
    specc.compile(graph).save(tmp_path / "large")
    arena = specc.runtime.open(tmp_path / "large").manifest.sizes[0].facts["memory"]["arena"]
    left = -arena % (1 << 21)
    assert (arena >> 21) + (0 < left <= max(arena // 20, (arena < 1 << 21) << 19)) == pages
    command = [sys.executable, "-c", _ADVISED, str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == pages << 21


_ADVISED = """
import sys
from pathlib import Path
import numpy as np
import specc.runtime

def advised():
    found, size = 0, 0
    for line in Path("/proc/self/smaps").read_text(encoding="ascii", errors="replace").splitlines():
        name, _, words = line.partition(":")
        size = int(words.split()[0]) << 10 if name == "Size" else size
        found += size if name == "VmFlags" and "hg" in words.split() else 0
    return found

before = advised()
artifact = specc.runtime.open(sys.argv[1])
artifact(np.zeros(artifact.manifest.sizes[0].inputs[0].shape, np.float32))
print(advised() - before)
"""
"""Prints how many bytes of a process of its own are to lie in pages of 2 MB when a network has run: where tests share
one, arrays of numpy's come and go that are so, too."""


def test_what_is_no_graph_no_weights_and_no_size_is_refused(tmp_path: Path) -> None:
    wrong: Any = "net.specc"
    with pytest.raises(SpeccError, match=r"S1001.*this is a str\n  = `specc.load\(path\)`"):
        specc.compile(wrong)
    assert codes_of(lambda: specc.to_torch(wrong)) == ["S1001"]
    assert codes_of(lambda: specc.compile(wide(), weights=[1])) == ["S1001"]  # type: ignore[arg-type]
    assert codes_of(lambda: specc.compile(wide(), shapes="n=1")) == ["S1001"]  # type: ignore[arg-type]
    specc.compile(wide()).save(tmp_path / "wide")
    for threads in ("2", 1.0):
        assert codes_of(lambda threads=threads: specc.runtime.open(tmp_path / "wide", threads)) == ["S0909"]


def test_a_limit_of_memory_that_nothing_meets_is_refused() -> None:
    with pytest.raises(SpeccError, match=r"`Wide` needs \d+ bytes for the tensors between its kernels, not 1000"):
        specc.compile(wide(), peak=1000)
    assert codes_of(lambda: specc.compile(wide(), passes=(), strips=2)) == ["S1001"]
    assert codes_of(lambda: specc.compile(wide(), strips=0)) == ["S1001"]
