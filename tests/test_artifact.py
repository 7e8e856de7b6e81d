"""The artifact's file: what is written is read back, and whatever is not exactly that is refused before it is run."""

from __future__ import annotations

import json
import os
import random
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specc import artifact, model, runtime, targets
from specc.artifact import ALIGNMENT, Contents, Sample, Seal
from specc.diagnostics import SpeccError
from specc.magic import is_artifact
from specc.manifest import Machine, Manifest, Size, TensorSpec

rng = np.random.default_rng(3)


def size(batch: int) -> Size:
    return Size(
        (("b", batch),),
        inputs=(TensorSpec("x", (batch, 3), "float32"), TensorSpec("n", (), "int64")),
        outputs=(TensorSpec("output", (batch,), "float32"),),
        facts={"passes": [{"name": "reparam", "summary": "3 convolutions into 1"}]},
    )


def sampled(batch: int) -> Sample:
    x, output = (rng.standard_normal(shape).astype("float32") for shape in ((batch, 3), batch))
    return Sample([x, np.array(7)], [output])


def contents(batches: tuple[int, ...] = (2,), **changes: object) -> Contents:
    """An artifact's contents whose library is no library: nothing here may run it."""
    manifest = Manifest(
        network="Toy",
        sizes=tuple(map(size, batches)),
        machine=Machine("native", os.uname().machine, ()),
        specc="0.1.0",
        facts={"spec": "ab"},
    )
    return Contents(
        replace(manifest, **changes),  # type: ignore[arg-type]
        library=b"\x7fELF, but not really" * 11,
        weights=[rng.standard_normal((4, 5)).astype("float32"), np.ones(3, "bool"), np.zeros((0, 7), "float32")],
        samples=list(map(sampled, batches)),
    )


@pytest.fixture(params=["unsigned", "signed, of two sizes"])
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An artifact's file, at one size without a seal and at two with one: no test below may depend on which."""
    seal = Seal(bytes(range(32)), bytes(range(64)))
    made = contents((2, 3) if "two" in request.param else (2,))
    artifact.write(tmp_path / "toy", made, None if request.param == "unsigned" else lambda _: seal)
    return tmp_path / "toy"


def sealed_again(path: Path) -> object:
    """What gives a file that is written anew the seal that stands in `path`."""
    key = artifact.read(path).signed_by
    return (lambda _: Seal(key, bytes(range(64)))) if key else None


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise AssertionError("the library of a refused artifact was loaded")

    monkeypatch.setattr(model, "_load_library", run)


def refused(path: Path, *codes: str) -> str:
    """Opens `path`, which must fail with one of `codes`; the message."""
    with pytest.raises(SpeccError) as caught:
        runtime.open(path)
    assert caught.value.diagnostics[0].code in codes, str(caught.value)
    return str(caught.value)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    before = contents((2, 3))
    length = artifact.write(tmp_path / "toy", before)
    after = artifact.read(tmp_path / "toy")
    assert (tmp_path / "toy").stat().st_size == length
    assert after.manifest == before.manifest
    assert after.library == before.library
    both = zip(before.samples, after.samples, strict=True)
    pairs = [pair for ours, theirs in both for pair in ((ours.inputs, theirs.inputs), (ours.outputs, theirs.outputs))]
    for ours, theirs in ((before.weights, after.weights), *pairs):
        assert [(a.dtype, a.shape) for a in ours] == [(a.dtype, a.shape) for a in theirs]
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_tensors_are_aligned_views_of_the_file(file: Path) -> None:
    weights = artifact.read(file).weights
    assert all(w.ctypes.data % ALIGNMENT == 0 for w in weights if w.size)
    assert all(not w.flags.owndata for w in weights)


def test_writing_to_a_tensor_leaves_the_file_alone(file: Path) -> None:
    before = file.read_bytes()
    artifact.read(file).weights[0][:] = 0
    assert file.read_bytes() == before


def test_the_same_contents_give_the_same_bytes(tmp_path: Path, file: Path) -> None:
    artifact.write(tmp_path / "again", artifact.read(file), sealed_again(file))  # type: ignore[arg-type]
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_an_artifact_can_be_saved_over_itself(file: Path) -> None:
    before = file.read_bytes()
    artifact.write(file, artifact.read(file), sealed_again(file))  # type: ignore[arg-type]
    assert file.read_bytes() == before


def test_every_byte_is_covered(file: Path) -> None:
    whole = file.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        refused(file, "S0901", "S0902", "S0903")


def test_every_cut_is_noticed(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        refused(file, "S0901" if length < 8 else "S0902")


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 64, b"x", b"twice"])
def test_appended_bytes_are_noticed(file: Path, tail: bytes) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole + (whole if tail == b"twice" else tail))
    assert "bytes, and its header says" in refused(file, "S0902")


def test_random_damage_is_noticed(file: Path) -> None:
    whole, random_ = file.read_bytes(), random.Random(11)
    for _ in range(200):
        damaged = bytearray(whole)
        start = random_.randrange(len(damaged))
        end = min(len(damaged), start + random_.randrange(1, 200))
        match random_.randrange(4):
            case 0:
                damaged[start:end] = random_.randbytes(end - start)
            case 1:
                damaged[start:end] = bytes(end - start)
            case 2:
                del damaged[start:end]
            case 3:
                damaged[start:start] = damaged[start:end]
        if bytes(damaged) != whole:
            file.write_bytes(damaged)
            refused(file, "S0901", "S0902", "S0903")


def test_a_part_of_another_artifact_is_noticed(tmp_path: Path, file: Path) -> None:
    """The library, the weights or the sample of an artifact that differs in nothing else."""
    whole = file.read_bytes()
    whole_file = tmp_path / "whole"
    whole_file.write_bytes(whole)
    other = artifact.read(file)
    for changed in (
        replace(other, library=other.library[::-1]),
        replace(other, weights=[~w if w.dtype == bool else w + w for w in other.weights]),
        replace(other, samples=[replace(s, outputs=[w + 1 for w in s.outputs]) for s in other.samples]),
    ):
        artifact.write(tmp_path / "other", changed, sealed_again(whole_file))  # type: ignore[arg-type]
        theirs = (tmp_path / "other").read_bytes()
        assert len(theirs) == len(whole)
        end_of_manifest = 64 + struct.unpack_from("<Q", whole, 16)[0]
        file.write_bytes(whole[:end_of_manifest] + theirs[end_of_manifest:])
        refused(file, "S0902")


def rewritten(path: Path, change: object) -> None:
    """Changes the manifest and makes all digests of the header right again: a forgery, not damage."""
    whole = path.read_bytes()
    (length,) = struct.unpack_from("<Q", whole, 16)
    manifest = json.loads(whole[64 : 64 + length])
    change(manifest)  # type: ignore[operator]
    rewrite_text(path, artifact._canonical(manifest))


def rewrite_text(path: Path, text: bytes) -> None:
    whole = path.read_bytes()
    (length,) = struct.unpack_from("<Q", whole, 16)
    old_start, new_start = (artifact._aligned(64 + n) for n in (length, len(text)))
    body = bytes(new_start - 64 - len(text)) + whole[old_start:]
    start = whole[:16] + struct.pack("<QQ", len(text), 64 + len(text) + len(body))
    path.write_bytes(start + artifact._digest([start, text]) + text + body)


def put(*keys: object, value: object) -> object:
    def change(manifest: object) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]  # type: ignore[index]
        manifest[keys[-1]] = value  # type: ignore[index]

    return change


def test_a_rewritten_manifest_is_read_where_it_is_right(file: Path) -> None:
    """The tool of the next tests makes artifacts that are read, so that a refusal there means something."""
    rewritten(file, put("facts", "spec", value="cd"))
    assert artifact.read(file).manifest.facts["spec"] == "cd"


@pytest.mark.parametrize(
    "change",
    [
        put("members", "weights", "tensors", 0, "offset", value=-64),
        put("members", "weights", "tensors", 0, "offset", value=64),
        put("members", "weights", "tensors", 0, "shape", value=[1 << 40, 1 << 40]),
        put("members", "weights", "tensors", 0, "shape", value=[4, -5]),
        put("members", "weights", "tensors", 0, "shape", value=[4, 5.0]),
        put("members", "weights", "tensors", 0, "shape", value="ab"),
        put("members", "weights", "tensors", 0, "dtype", value="object"),
        put("members", "weights", "tensors", 0, "dtype", value=["float32"]),
        put("members", "weights", "tensors", value=[]),
        put("members", "weights", "length", value=-1),
        put("members", "weights", "length", value=True),
        put("members", "weights", "length", value=1 << 70),
        put("members", "library", "length", value=0),
        put("members", "library", "digest", value=None),
        put("members", "../../etc/passwd", value={"length": 0, "digest": "", "tensors": []}),
        put("members", value=[]),
        put("members", value=None),
        put("sizes", value=[]),
        put("sizes", value=None),
        put("sizes", 0, "inputs", value=[]),
        put("sizes", 0, "inputs", 0, "name", value="a\nb"),
        put("sizes", 0, "inputs", 0, "name", value="../x"),
        put("sizes", 0, "inputs", 0, "name", value="n"),
        put("sizes", 0, "inputs", 0, "name", value=3),
        put("sizes", 0, "inputs", 0, "shape", value=[2, 4]),
        put("sizes", 0, "outputs", 0, "dtype", value="float64"),
        put("sizes", 0, "dimensions", value={"b": 2}),
        put("sizes", 0, "dimensions", 0, 0, value="/etc/b"),
        put("sizes", 0, "dimensions", 0, 1, value=-2),
        put("sizes", 0, "facts", value=[]),
        put("sizes", 0, "open", value=["c"]),
        put("sizes", 0, "open", value=None),
        put("sizes", 0, "inputs", 0, "pattern", value=["b"]),
        put("sizes", 0, "inputs", 0, "pattern", value=[2.5, 3]),
        put("facts", value=None),
        put("machine", "requires", value=3),
        put("machine", value="x86_64"),
        put("network", value=None),
    ],
)
def test_a_wrong_manifest_is_refused_even_with_the_right_digest(file: Path, change: object) -> None:
    rewritten(file, change)
    refused(file, "S0902")


@pytest.mark.parametrize(
    "change",
    [
        lambda sizes: sizes.append(sizes[0]),
        lambda sizes: sizes.pop(),
        lambda sizes: sizes.reverse(),
        lambda sizes: sizes[1]["inputs"][0].update(name="y"),
        lambda sizes: sizes[1]["outputs"][0].update(name="y"),
        lambda sizes: sizes[1]["inputs"].reverse(),
        lambda sizes: sizes[1].update(inputs=sizes[0]["inputs"]),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(tmp_path: Path, change: object) -> None:
    artifact.write(tmp_path / "toy", contents((2, 3)))
    rewritten(tmp_path / "toy", lambda manifest: change(manifest["sizes"]))  # type: ignore[operator]
    refused(tmp_path / "toy", "S0902")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"3", b"null", b'"members"', b'{"members":{}}', b"\xff\xfe", b"[" * 100_000, b'{"a":NaN}'],
)
def test_a_manifest_that_is_no_manifest_is_refused(file: Path, text: bytes) -> None:
    rewrite_text(file, text)
    refused(file, "S0902")


def test_swapped_members_are_refused(file: Path) -> None:
    def swap(manifest: dict[str, dict[str, object]]) -> None:
        members = manifest["members"]
        members["weights"], members["sample"] = members["sample"], members["weights"]

    rewritten(file, swap)
    refused(file, "S0902")


def test_a_repeated_key_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    (length,) = struct.unpack_from("<Q", whole, 16)
    text = whole[64 : 64 + length]
    rewrite_text(file, b'{"network":"Other",' + text[1:])
    refused(file, "S0902")


@pytest.mark.parametrize(("step", "age"), [(1, "newer"), (-1, "older")])
def test_another_format_has_its_own_message(file: Path, step: int, age: str) -> None:
    whole = bytearray(file.read_bytes())
    whole[8] = artifact.VERSION + step
    file.write_bytes(whole)
    message = refused(file, "S0903")
    assert f"format {artifact.VERSION + step}" in message
    assert age in message


def test_a_seal_of_another_length_is_refused(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[12] = 64
    file.write_bytes(whole)
    assert "seal of 64 bytes" in refused(file, "S0902")


@pytest.mark.parametrize("text", [b"", b"specc 1\n", b"PK\x03\x04", b"\x7fELF" + bytes(200), b"\x89PNG\r\n\x1a\n"])
def test_other_files_are_no_artifacts(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "other").write_bytes(text)
    assert not is_artifact(tmp_path / "other")
    assert "is not an artifact" in refused(tmp_path / "other", "S0901")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "absent", "S0001")
    assert "directory" in refused(tmp_path, "S0001")


def test_another_architecture_is_refused(file: Path) -> None:
    artifact.write(file, contents(machine=Machine("cortex-a76", "aarch64-of-tomorrow", ())))
    assert "is another processor" in refused(file, "S0904")


def test_missing_features_are_named(file: Path) -> None:
    machine = Machine("x86-64-v9", os.uname().machine, (*sorted(targets.cpu_features())[:2], "avx9000"))
    artifact.write(file, contents(machine=machine))
    assert "this machine lacks avx9000" in refused(file, "S0904")


def test_a_failed_write_leaves_what_was_there(file: Path) -> None:
    before = file.read_bytes()

    class Interrupting(list[np.ndarray]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield np.zeros(3, "float32")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifact.write(file, replace(contents(), weights=Interrupting()))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_an_interrupt_between_two_members_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)  # everything is written, the file has not its name yet
    with pytest.raises(KeyboardInterrupt):
        artifact.write(tmp_path / "toy", contents())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("goal", ["absent/toy", ".", "file/toy"])
def test_goals_that_cannot_be_written(tmp_path: Path, goal: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpeccError) as caught:
        artifact.write(tmp_path / goal, contents())
    assert caught.value.diagnostics[0].code == "S0002"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpeccError) as caught:
        artifact.write(tmp_path / "pipe", contents())
    assert caught.value.diagnostics[0].code == "S0002"
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("goal")
    artifact.write(tmp_path / "link", contents())
    assert (tmp_path / "link").is_symlink()
    assert is_artifact(tmp_path / "goal")
