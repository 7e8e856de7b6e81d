"""Sums by kernel and by block, the order of the kernels, and the reason that is given for the first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from profiles_by_hand import BLOCKS, ROOFS, call, network, usual

from specc.backends.tvm.roofline import Roofs
from specc.waterline import gaps


def test_kernels_are_summed_and_the_largest_gap_is_first() -> None:
    kernels = gaps.by_kernel(usual().calls)
    assert [k.operators for k in kernels] == ["add", "conv2d", "gelu"]
    add, conv, gelu = kernels
    assert (add.numbers, conv.numbers, gelu.numbers) == ((1, 3), (0, 2), (4,))
    assert (add.microseconds, add.ideal, add.gap) == (160.0, 60.0, 100.0)
    assert (conv.operations, conv.bytes, conv.share) == (72_000_000, 1_600_000, 0.9)
    assert gelu.share == 0.25


def test_among_equal_gaps_the_longer_time_is_first() -> None:
    found = gaps.by_kernel([call("a", "", 20.0, 10.0), call("b", "", 110.0, 100.0)])
    assert [kernel.operators for kernel in found] == ["b", "a"]


def test_time_that_one_call_saves_does_not_hide_what_another_loses() -> None:
    fast, slow = call("k", "", 10.0, 30.0), call("k", "", 50.0, 30.0)
    (kernel,) = gaps.by_kernel([fast, slow])
    assert (fast.share, fast.gap, kernel.gap) == (3.0, 0.0, 20.0)


def test_a_block_sums_all_below_it() -> None:
    tree = gaps.by_block(usual().calls, BLOCKS, "Net_small")
    rows = {block.path: block for _, block in tree.walk()}
    assert [(depth, block.label) for depth, block in tree.walk()] == [
        (0, "Net_small"),
        (1, "stem"),
        (1, "stages.0"),
        (2, "mix"),
        (1, "stages.1"),
    ]
    assert {path: block.total.microseconds for path, block in rows.items()} == {
        "": 1040.0,
        "stem": 500.0,
        "stages.0": 400.0,
        "stages.0.mix": 400.0,
        "stages.1": 60.0,
    }
    assert rows["stages.0.mix"].total.numbers == (1, 2) and rows["stages.0"].total.gap == 90.0
    assert (rows["stages.0"].name, rows["stages.0"].place) == ("Stage", "net.specc:22")
    assert (rows[""].name, rows[""].place) == ("Net", "net.specc:20")


@pytest.mark.parametrize(
    ("path", "home"),
    [
        ("stem.conv.bn", "stem"),
        ("stages.0.mix.conv", "stages.0.mix"),
        ("stages.0.other.c", "stages.0"),
        ("stages.2", "stages.2"),
        ("head", "head"),
        ("", ""),
    ],
)
def test_a_call_belongs_to_the_innermost_block(path: str, home: str) -> None:
    assert gaps.home(path, BLOCKS) == home


def test_a_spec_without_blocks_has_a_tree_of_names() -> None:
    calls = [call("a", "layers.0.conv", 1.0, 1.0), call("b", "layers.1", 2.0, 1.0), call("c", "0.1", 4.0, 1.0)]
    tree = gaps.by_block(calls, {}, "N")
    assert [(block.path, block.total.microseconds) for _, block in tree.walk()] == [
        ("", 7.0),
        ("layers.0", 1.0),
        ("layers.0.conv", 1.0),
        ("layers.1", 2.0),
        ("0.1", 4.0),
    ]


def test_the_place_is_that_of_the_block_and_else_of_the_operator() -> None:
    assert gaps.place(call("k", "stages.0.mix.conv", 1.0, 1.0), BLOCKS) == "net.specc:12"
    assert gaps.place(call("k", "head", 1.0, 1.0), BLOCKS) == "std/conv.specc:12"
    assert gaps.place(call("k", "", 1.0, 1.0, place=None), BLOCKS) == ""


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (call("k", "", 100.0, 90.0, 9_000_000), "near its roof: only fewer operations"),
        (call("k", "", 100.0, 90.0, 0), "near its roof: only fewer bytes"),
        (call("k", "", 6.0, 1.0), "a call takes 6 µs"),
        (call("k", "", 100.0, 10.0, parallel=[]), "one of 2 threads works"),
        (call("k", "", 100.0, 10.0, parallel=[3]), "3 pieces for 2 threads, which leaves them idle 25% of the time"),
        (call("k", "", 100.0, 50.0, 5_000_000), "computing bounds it, at 50 of 100 GFLOP/s"),
        (call("k", "", 100.0, 50.0, 1_000_000, 1_000_000), "moving data bounds it, at 10.0 GB/s"),
        (call("k", "", 100.0, 20.0, 900_000, 200_000), "at 9 of 100 GFLOP/s, nor moving data, at 2.0 GB/s, explains"),
        (call("k", "", 100.0, 20.0, 0, 200_000), "2.0 GB/s without a multiply-add"),
        (call("k", "", 100.0, 50.0, 0, 1_000_000), "10.0 GB/s without a multiply-add"),
    ],
)
def test_the_reason_follows_from_the_numbers(made: gaps.KernelTime, words: str) -> None:
    (kernel,) = gaps.by_kernel([made])
    assert words in gaps.reason(kernel, network(made))


def test_integers_have_a_roof_of_their_own() -> None:
    roofs = replace(ROOFS, others=(("uint8", 400e9),))
    assert [roofs.multiplying(kind) for kind in ("", "float32", "uint8")] == [100e9, 100e9, 400e9]
    assert roofs.seconds(1_000_000, 1000, element="uint8") * 1e6 == pytest.approx(2.5)
    made = call("k", "", 100.0, 12.5, 5_000_000, element="uint8")
    (kernel,) = gaps.by_kernel([made])
    profile = replace(network(made), roofs=roofs)
    assert "computing bounds it, at 50 of 400 GOP/s" in gaps.reason(kernel, profile)
    assert (gaps.roofs(profile), gaps.roofs(replace(profile, calls=()))) == (
        "100 GFLOP/s, 400 GOP/s of uint8",
        "100 GFLOP/s",
    )


def test_of_two_measurements_the_higher_roofs_count() -> None:
    once = Roofs(100e9, 12e9, ((1 << 20, 40e9),), (("uint8", 300e9),))
    again = Roofs(90e9, 13e9, ((1 << 20, 45e9),), (("uint8", 400e9),))
    assert once.best(again) == Roofs(100e9, 13e9, ((1 << 20, 45e9),), (("uint8", 400e9),))


def test_one_thread_has_nobody_to_share_with() -> None:
    made = call("k", "", 100.0, 50.0, 5_000_000, parallel=[])
    assert "computing bounds it" in gaps.reason(gaps.by_kernel([made])[0], network(made, threads=1))


@pytest.mark.parametrize(("pieces", "threads", "part"), [(8, 2, 1.0), (3, 2, 0.75), (1, 4, 0.25), (9, 8, 9 / 16)])
def test_threads_wait_for_the_one_with_most_pieces(pieces: int, threads: int, part: float) -> None:
    assert gaps.busy(pieces, threads) == part


def test_the_verdict_names_kernel_place_and_reason() -> None:
    assert gaps.verdict(usual(), BLOCKS) == (
        "Look first at add (2 calls, most in `stages.0.mix.conv`, net.specc:12): 15% of the time, and 100 µs of the "
        "240 µs that all kernels take beyond their ideal time; it moves 3.8 GB/s without a multiply-add that is "
        "counted: fuse it with a neighbour, or its arithmetic (exponentials, comparisons, reductions) takes the time."
    )


def test_there_may_be_nothing_to_look_at() -> None:
    assert gaps.verdict(network(), BLOCKS) == ""
    assert "no gap to close" in gaps.verdict(network(call("k", "", 10.0, 12.0)), BLOCKS)


# ---- roofs


def test_what_a_cache_holds_is_read_at_its_rate() -> None:
    assert [ROOFS.rate(size) for size in (0, 1 << 20, 1 << 22, 1 << 24, (1 << 26) - 1, 1 << 26)] == [
        40e9,
        40e9,
        40e9,
        20e9,
        20e9,
        10e9,
    ]


@pytest.mark.parametrize(
    ("operations", "moved", "weights", "held", "microseconds"),
    [
        (1_000_000, 1000, 0, 0, 10.0),
        (0, 400_000, 0, 0, 10.0),
        (0, 400_000, 0, 1 << 30, 10.0),
        (0, 400_000, 400_000, 1 << 30, 40.0),
        (0, 800_000, 400_000, 1 << 30, 50.0),
        (1_000_000, 400_000, 400_000, 1 << 24, 20.0),
        (0, 1 << 27, 0, 0, (1 << 27) / 10e3),
    ],
)
def test_the_least_time_is_that_of_operations_or_bytes(
    operations: int, moved: int, weights: int, held: int, microseconds: float
) -> None:
    assert ROOFS.seconds(operations, moved, weights, held) * 1e6 == pytest.approx(microseconds)
