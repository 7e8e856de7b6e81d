"""Convolutions by minimal filtering on emulated threads, mistakes in them, and the machine code that NVRTC makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from cuda_programs import TARGET, Kernels, Mistake, judge, machine_code, shifted, with_mistakes
from kernel_programs import program, tensor, weight

from specc import targets
from specc.backends.tvm.choices import Choices, Value
from specc.backends.tvm.cuda import nvrtc, products, select, winograd
from specc.backends.tvm.cuda.operands import Product
from specc.backends.tvm.cuda.winograd import _Winograd
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group, Input
from specc.ir.types import TensorType
from specc.targets import Target

GPUS = [target for target in targets.TARGETS.values() if target.gpu]


def lower(group: Group, target: Target, **chosen: Value) -> Template | None:
    return winograd.lower(group, target, Choices(chosen))


def conv(
    data: tuple[int, int, int, int], outputs: int, *behind: Any, kernel: tuple[int, int] = (3, 3), **attrs: Any
) -> Group:
    """A convolution with a bias, and steps behind it: value 3 is its result."""
    return program(
        [tensor(*data), weight(outputs, data[1], *kernel), weight(outputs)], ("conv2d", (0, 1, 2), attrs), *behind
    )


def residual(act: str, outputs: int = 24, places: tuple[int, int] = (11, 9), dtype: str = "float32") -> Group:
    """A convolution, a scale of each channel, a residual of `dtype` and an activation, rounded to `dtype`."""
    inputs = [
        tensor(2, 19, *places),
        weight(outputs, 19, 3, 3),
        Input(TensorType((2, outputs, *places), dtype)),
        weight(outputs, 1, 1),
    ]
    steps: list[Any] = [
        ("conv2d", (0, 1), {"padding": 1}),
        ("mul", (4, 3), {}),
        ("add", (5, 2), {}),
        (act, (6,), {}),
    ]
    return program(inputs, *steps, *([("cast", (7,), {"dtype": dtype})] if dtype != "float32" else []))


CASES: dict[str, tuple[Group, dict[str, Value]]] = {
    "even": (conv((1, 32, 8, 8), 32, padding=1), {"winograd": "4x4"}),
    "odd": (conv((2, 19, 9, 13), 37, ("silu", (3,), {}), padding=1), {"winograd": "4x4"}),
    "small_tiles": (conv((2, 17, 7, 10), 21, ("relu", (3,), {}), padding=1), {"winograd": "2x2"}),
    "no_padding": (conv((1, 16, 11, 14), 24), {"winograd": "4x4"}),
    "no_padding_small_tiles": (conv((2, 18, 9, 8), 20), {"winograd": "2x2"}),
    "uneven_padding": (conv((1, 17, 7, 10), 33, padding=[2, 0, 1, 2]), {"winograd": "3x2"}),
    "one_tile": (conv((1, 64, 3, 3), 40, padding=1), {"winograd": "4x4"}),
    "large_kernel": (conv((1, 16, 9, 9), 48, kernel=(5, 5), padding=2), {"winograd": "2x2"}),
    "row": (conv((1, 16, 6, 21), 16, kernel=(1, 7), padding=[0, 3]), {"winograd": "1x2"}),
    "column": (conv((1, 16, 6, 21), 16, kernel=(3, 1), padding=[1, 0]), {"winograd": "4x1"}),
    "stride": (conv((2, 18, 13, 16), 24, ("relu", (3,), {}), padding=1, stride=2), {"winograd": "2x2"}),
    "stride_large_tiles": (conv((1, 16, 14, 15), 20, stride=2, padding=1), {"winograd": "4x3"}),
    "stride_large_kernel": (conv((1, 16, 12, 11), 20, kernel=(5, 5), stride=2, padding=2), {"winograd": "2x2"}),
    "stride_down": (conv((1, 16, 15, 9), 20, stride=(2, 1), padding=1), {"winograd": "3x4"}),
    "parts": (conv((1, 150, 8, 8), 32, ("relu", (3,), {}), padding=1), {"winograd": "4x4", "splits": 2}),
    "residual": (residual("relu"), {"winograd": "4x4"}),
    "residual_gelu": (residual("gelu", 40, (8, 12)), {"winograd": "2x4"}),
    "residual_float16": (residual("sigmoid", dtype="float16"), {"winograd": "2x2"}),
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    given = iter(CASES.values())

    def chosen(group: Group, target: Target) -> Template | None:
        configuration = next(given)[1]
        template = winograd.lower(group, target, choices := Choices(configuration))
        assert configuration.items() <= {choice.name: choice.taken for choice in choices.space}.items()
        return template

    groups = {name: group for name, (group, _) in CASES.items()}
    return Kernels(groups, chosen, tmp_path_factory.mktemp("winograd") / "kernels.so")


@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name: str, kernels: Kernels) -> None:
    assert len(kernels.devices[name].launches) == 3
    kernels.check(name, tolerance=2.0**-10 if name.endswith("float16") else 2e-6)


# ---- mistakes --------------------------------------------------------------------------------------------------------


def _with(name: str, wrong: Callable[..., Any]) -> Mistake:
    return lambda patch: patch.setattr(_Winograd, name, wrong)


def _believing(method: str, **wrong: Any) -> Mistake:
    """Has a launch be written with other attributes of the kernel, or extents of its shape."""

    def mistake(patch: pytest.MonkeyPatch) -> None:
        right: Any = getattr(_Winograd, method)

        def write(self: _Winograd, *arguments: Any) -> None:
            with pytest.MonkeyPatch.context() as inner:
                for name, value in wrong.items():
                    if hasattr(self, name):
                        inner.setattr(self, name, value)
                    else:
                        inner.setattr(self, "shape", replace(self.shape, **{name: value}))
                right(self, *arguments)

        patch.setattr(_Winograd, method, write)

    return mistake


def _other_matrix(number: int) -> Mistake:
    """Turns the rows of one of the matrices around: of A^T, 0, or of B^T, 2."""

    def mistake(patch: pytest.MonkeyPatch) -> None:
        right = winograd.transforms

        def wrong(m: int, r: int, stride: int) -> Any:
            found = list(right(m, r, stride))
            found[number] = tuple(reversed(found[number]))
            return tuple(found)

        patch.setattr(winograd, "transforms", wrong)

    return mistake


def _other_place(patch: pytest.MonkeyPatch) -> None:
    """Has the weights of another place."""

    def wrong(*given: Any) -> Product:
        made = Product(*given)
        return replace(made, left=lambda b, m, k: made.left(made.batch - 1 - b, m, k))

    patch.setattr(winograd, "Product", wrong)


MISTAKES: dict[str, Mistake] = {
    "right": lambda patch: None,
    "next_input_channel": shifted(_Winograd, "_input", 0),
    "next_tile_of_inputs": shifted(_Winograd, "_input", 1),
    "next_output_channel": shifted(_Winograd, "_output", 0),
    "next_tile_of_outputs": shifted(_Winograd, "_output", 1),
    "one_picture": _with("_corner", lambda self, tile: (0, tile % 4 * 2, tile % 3 * 3)),
    "results_beyond_the_end": _with("_inside", lambda self, at, offset, axis: True),
    "results_cut_off": _with("_inside", lambda self, at, offset, axis: at < self.shape.places[axis] - 1),
    "no_border_at_the_end": _believing("_input", extents=(11, 12)),
    "other_padding": _believing("_input", padding=(1, 0)),
    "one_part": _believing("_output", splits=1),
    "no_bias": _believing("_output", bias=[]),
    "other_place": _other_place,
    "other_input_matrix": _other_matrix(2),
    "other_output_matrix": _other_matrix(0),
}


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    group = conv((2, 130, 9, 10), 20, ("relu", (3,), {}), padding=1)
    folder = tmp_path_factory.mktemp("mistakes")
    return with_mistakes(group, partial(lower, winograd="2x3", splits=2), MISTAKES, folder / "kernels.so")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_index_or_a_wrong_matrix_is_found(name: str, mistaken: Kernels) -> None:
    judge(name, mistaken)


# ---- machine code ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("gpu", GPUS, ids=lambda target: target.gpu)
def test_tiles_lie_in_registers(gpu: Target) -> None:
    wide = replace(gpu, rounding=1e3)
    cases = {
        "runs": (conv((1, 64, 28, 28), 64, ("relu", (3,), {}), padding=1), "4x4"),
        "edges": (residual("gelu", 64, (57, 55)), "4x4"),
        "largest": (conv((1, 64, 27, 29), 64, padding=1), "6x6"),
        "stride": (conv((8, 64, 28, 28), 64, padding=1, stride=2), "2x7"),
        "stride_large": (conv((8, 64, 28, 28), 64, padding=1, stride=2), "4x4"),
    }
    given = iter(cases.values())
    groups = {name: group for name, (group, _) in cases.items()}
    found = list(machine_code(groups, lambda group, target: lower(group, target, winograd=next(given)[1]), wide))
    assert len(found) == 3 * len(cases)
    for taken, launch in found:
        assert taken.stack == 0 and taken.registers <= 128, launch.function


# ---- choices ---------------------------------------------------------------------------------------------------------


def chosen(group: Group, target: Target = TARGET) -> Value | None:
    """What is chosen for a group; None where nothing is asked."""
    return select.lower(group, target).configuration.get("winograd")


def test_the_cost_model_takes_it_where_it_pays() -> None:
    for gpu in GPUS:
        assert chosen(conv((64, 64, 56, 56), 64, padding=1), gpu) == "4x4"
        assert chosen(conv((1, 64, 56, 56), 64, padding=1), gpu) == "4x4"
        assert chosen(conv((64, 512, 7, 7), 512, padding=1), gpu) == "4x4", "more work on a tile that is cut off"
        assert chosen(conv((1, 512, 7, 7), 512, padding=1), gpu) == "none", "it would read four times the weights"
        assert chosen(conv((1, 16, 32, 32), 16, padding=1), gpu) == "none", "launches take most of the time"
        assert chosen(conv((64, 32, 112, 112), 32, padding=1), gpu) == "none", "tiles come from memory"
        assert chosen(conv((8, 256, 28, 28), 256, padding=1, stride=2), gpu) not in ("none", None)
        assert chosen(conv((1, 512, 14, 14), 512, padding=1, stride=2), gpu) == "none", "weights come from memory"


def test_rounding_is_bounded() -> None:
    group = conv((8, 128, 28, 28), 128, padding=1)
    assert chosen(group, replace(TARGET, rounding=2.0)) == "2x2" != chosen(group)
    assert chosen(group, replace(TARGET, rounding=1.0)) is None
    assert lower(group, replace(TARGET, rounding=1.0), winograd="4x4") is None


def test_indices_between_the_launches_have_32_bits() -> None:
    for pictures, fits in ((256, True), (300, False)):  # 36 / 16 numbers for each pixel of 64 channels
        group = conv((pictures, 64, 224, 224), 64, padding=1)
        assert (lower(group, TARGET, winograd="4x4") is not None) == fits
        assert lower(group, TARGET, winograd="2x2") is None or fits
        assert chosen(group) == ("4x4" if fits else None)


def test_a_configuration_overrules_the_cost_model() -> None:
    small, large = conv((1, 16, 8, 8), 16, padding=1), conv((64, 64, 56, 56), 64, padding=1)
    for group, given in ((small, "4x4"), (large, "none")):
        assert chosen(group) != given
        template = select.lower(group, TARGET, {"winograd": given})
        assert template.configuration["winograd"] == given
        module = products if given == "none" else winograd
        assert template.write.__module__ == module.__name__
        assert select.lower(group, TARGET, template.configuration).configuration == template.configuration


def test_other_groups_are_left_to_others() -> None:
    data, weights = (1, 64, 28, 28), (64, 64, 3, 3)
    halves = [Input(TensorType(shape, "float16"), frozen) for shape, frozen in ((data, False), (weights, True))]
    others = [
        program(halves, ("conv2d", (0, 1), {})),
        program([tensor(*data), tensor(*weights)], ("conv2d", (0, 1), {})),
        program([tensor(1, 64, 28), weight(64, 64, 3)], ("conv1d", (0, 1), {})),
        conv(data, 64, stride=4),
        conv(data, 64, dilation=2),
        conv(data, 64, kernel=(1, 1)),
        program([tensor(*data), weight(64, 32, 3, 3)], ("conv2d", (0, 1), {"groups": 2})),
    ]
    for group in others:
        assert lower(group, TARGET, winograd="4x4") is None and chosen(group) is None
