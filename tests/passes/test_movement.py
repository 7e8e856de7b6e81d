"""Reshapes, permutes, slices, concatenations, pads and products: each rule, and near misses that it leaves alone."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specc.ir.cost import count_macs
from specc.ir.graph import Graph, Value
from specc.ir.text import parse_graph
from specc.ir.types import TensorType
from specc.passes.canonicalize import canonicalize
from specc.passes.rearrange import shortest
from specc.passes.rewrite import Journal
from specc.testing import check_pass

Case = tuple[str, str, str]
"""The network's inputs, its nodes, and the operators of the live nodes that are left."""


def network(source: str, body: str) -> Graph:
    """`x: 2, 3; w: param 3, 4` and lines `a = op(x) {..}: shape` as a graph; the last line is the output."""
    lines = ["graph Net"]
    names: dict[str, str] = {}
    for declared in source.split("; "):
        name, _, shape = declared.partition(": ")
        weight = shape.startswith("param ")
        names[name] = f"@{name}" if weight else name
        kind, init = ("param", " normal(1)") if weight else ("input", "")
        lines.append(f"{kind} {name}: float32[{shape.removeprefix('param ')}]{init}")
    for number, line in enumerate(map(str.strip, body.splitlines())):
        name, _, rest = line.partition(" = ")
        call, _, shape = rest.rpartition(": ")
        op, _, arguments = call.partition("(")
        operands, _, attrs = arguments.partition(")")
        given = ", ".join(names[operand] for operand in operands.split(", ") if operand)
        lines.append(f"%{number}: float32[{shape.strip('-')}] = {op}({given}){attrs}")
        names[name] = f"%{number}"
    lines.append(f"return {names[name]}")
    return parse_graph("\n".join(lines) + "\n")


def left(graph: Graph) -> str:
    """The operators of the live nodes, in order."""
    return " ".join(graph.node(identity).op for identity in graph.live())


MOVES: dict[str, Case] = {
    "permutes in a row": (
        "x: 2, 3, 4",
        "a = permute(x) {order=(1, 2, 0)}: 3, 4, 2\nb = permute(a) {order=(2, 1, 0)}: 2, 4, 3",
        "permute",
    ),
    "permutes there and back": (
        "x: 2, 3, 4",
        "a = permute(x) {order=(1, 2, 0)}: 3, 4, 2\nb = permute(a) {order=(2, 0, 1)}: 2, 3, 4",
        "",
    ),
    "a permute of extents of 1 is a view": ("x: 2, 1, 4", "a = permute(x) {order=(1, 0, 2)}: 1, 2, 4", "reshape"),
    "a permute stays": ("x: 2, 3, 4", "a = permute(x) {order=(0, 2, 1)}: 2, 4, 3", "permute"),
    "heads split off and put back": (
        "x: 2, 5, 12",
        """a = reshape(x) {shape=(2, 5, 3, 4)}: 2, 5, 3, 4
        b = permute(a) {order=(0, 2, 1, 3)}: 2, 3, 5, 4
        c = permute(b) {order=(0, 2, 1, 3)}: 2, 5, 3, 4
        d = reshape(c) {shape=(2, 5, 12)}: 2, 5, 12""",
        "",
    ),
    "a window's partition and reverse": (
        "x: 1, 8, 6, 3",
        """a = reshape(x) {shape=(1, 2, 4, 3, 2, 3)}: 1, 2, 4, 3, 2, 3
        b = permute(a) {order=(0, 1, 3, 2, 4, 5)}: 1, 2, 3, 4, 2, 3
        c = reshape(b) {shape=(6, 8, 3)}: 6, 8, 3
        d = reshape(c) {shape=(1, 2, 3, 4, 2, 3)}: 1, 2, 3, 4, 2, 3
        e = permute(d) {order=(0, 1, 3, 2, 4, 5)}: 1, 2, 4, 3, 2, 3
        f = reshape(e) {shape=(1, 8, 6, 3)}: 1, 8, 6, 3""",
        "",
    ),
    "two permutes with a view between them become one": (
        "x: 2, 3, 4, 5",
        """a = permute(x) {order=(2, 3, 0, 1)}: 4, 5, 2, 3
        b = reshape(a) {shape=(20, 6)}: 20, 6
        c = reshape(b) {shape=(20, 2, 3)}: 20, 2, 3
        d = permute(c) {order=(1, 2, 0)}: 2, 3, 20
        e = permute(d) {order=(1, 0, 2)}: 3, 2, 20""",
        "reshape permute",
    ),
    "a reshape that cuts across what a permute moved stays": (
        "x: 4, 3",
        "a = permute(x) {order=(1, 0)}: 3, 4\nb = reshape(a) {shape=(2, 6)}: 2, 6\nc = permute(b) {order=(1, 0)}: 6, 2",
        "permute reshape permute",
    ),
    "permutes behind such a reshape become one": (
        "x: 4, 3",
        """a = permute(x) {order=(1, 0)}: 3, 4
        b = reshape(a) {shape=(2, 6)}: 2, 6
        c = permute(b) {order=(1, 0)}: 6, 2
        d = permute(c) {order=(1, 0)}: 2, 6""",
        "permute reshape",
    ),
    "a permute that others need as well stays": (
        "x: 2, 3, 4",
        """a = permute(x) {order=(1, 2, 0)}: 3, 4, 2
        b = permute(a) {order=(2, 1, 0)}: 2, 4, 3
        c = mean(a) {axes=(0, 1, 2)}: -
        d = add(b, c): 2, 4, 3""",
        "permute mean add",
    ),
    "through an activation": (
        "x: 2, 3, 4, 5",
        """a = permute(x) {order=(0, 2, 3, 1)}: 2, 4, 5, 3
        b = gelu(a): 2, 4, 5, 3
        c = permute(b) {order=(0, 3, 1, 2)}: 2, 3, 4, 5""",
        "gelu",
    ),
    "through a normalization of channels": (
        "x: 2, 3, 4, 5; w: param 3; b: param 3; s: param 3",
        """a = permute(x) {order=(0, 2, 3, 1)}: 2, 4, 5, 3
        n = layer_norm(a, w, b): 2, 4, 5, 3
        m = mul(n, s): 2, 4, 5, 3
        c = permute(m) {order=(0, 3, 1, 2)}: 2, 3, 4, 5""",
        "layer_norm mul",
    ),
    "through matrices for every place, which become convolutions": (
        "x: 2, 3, 4, 5; w: param 3; b: param 3; f: param 8, 3; g: param 8; h: param 6, 8",
        """a = permute(x) {order=(0, 2, 3, 1)}: 2, 4, 5, 3
        n = layer_norm(a, w, b): 2, 4, 5, 3
        m = linear(n, f, g): 2, 4, 5, 8
        r = gelu(m): 2, 4, 5, 8
        l = linear(r, h): 2, 4, 5, 6
        c = permute(l) {order=(0, 3, 1, 2)}: 2, 6, 4, 5""",
        "layer_norm conv2d gelu conv2d",
    ),
    "through a convolution of 1x1, which becomes a matrix for every place": (
        "x: 2, 4, 5, 3; k: param 8, 3, 1, 1; g: param 8",
        """a = permute(x) {order=(0, 3, 1, 2)}: 2, 3, 4, 5
        m = conv2d(a, k, g): 2, 8, 4, 5
        r = tanh(m): 2, 8, 4, 5
        c = permute(r) {order=(0, 2, 3, 1)}: 2, 4, 5, 8""",
        "linear tanh",
    ),
    "with height and width in another order as well": (
        "x: 2, 3, 4, 5; f: param 8, 3",
        """a = permute(x) {order=(0, 3, 2, 1)}: 2, 5, 4, 3
        m = linear(a, f): 2, 5, 4, 8
        c = permute(m) {order=(0, 3, 1, 2)}: 2, 8, 5, 4""",
        "permute conv2d",
    ),
    **{
        f"not through a convolution {what}": (
            f"x: 2, 4, 5, 6; k: param 6, {kernel}",
            f"""a = permute(x) {{order=(0, 3, 1, 2)}}: 2, 6, 4, 5
            m = conv2d(a, k) {{{attrs}}}: 2, 6, {extents}
            c = permute(m) {{order=(0, 2, 3, 1)}}: 2, {extents}, 6""",
            "permute conv2d permute",
        )
        for what, kernel, attrs, extents in (
            ("of 1x3", "6, 1, 3", "padding=(0, 1, 0, 1)", "4, 5"),
            ("with a stride", "6, 1, 1", "stride=(2, 1)", "2, 5"),
            ("with padding", "6, 1, 1", "padding=(0, 0, 1, 0)", "5, 5"),
            ("in groups", "3, 1, 1", "groups=2", "4, 5"),
        )
    },
    "not through a matrix that depends on an input": (
        "x: 2, 3, 4, 5; f: 8, 3",
        """a = permute(x) {order=(0, 2, 3, 1)}: 2, 4, 5, 3
        m = linear(a, f): 2, 4, 5, 8
        c = permute(m) {order=(0, 3, 1, 2)}: 2, 8, 4, 5""",
        "permute linear permute",
    ),
    "not through a matrix over another dimension": (
        "x: 2, 3, 4, 5; f: param 8, 4",
        """a = permute(x) {order=(0, 3, 1, 2)}: 2, 5, 3, 4
        m = linear(a, f): 2, 5, 3, 8
        c = permute(m) {order=(0, 2, 3, 1)}: 2, 3, 8, 5""",
        "permute linear permute",
    ),
    "through both branches of a sum": (
        "x: 2, 3, 4; y: 2, 3, 4",
        """a = permute(x) {order=(2, 0, 1)}: 4, 2, 3
        b = permute(y) {order=(2, 0, 1)}: 4, 2, 3
        c = relu(b): 4, 2, 3
        d = sub(a, c): 4, 2, 3
        e = permute(d) {order=(1, 2, 0)}: 2, 3, 4""",
        "relu sub",
    ),
    "one permute behind a sum of two": (
        "x: 2, 3, 4; y: 2, 3, 4",
        """a = permute(x) {order=(2, 0, 1)}: 4, 2, 3
        b = permute(y) {order=(2, 0, 1)}: 4, 2, 3
        d = sub(a, b): 4, 2, 3""",
        "sub permute",
    ),
    "a permute beside an operand of lower rank": (
        "x: 2, 3, 4; y: 3",
        """a = permute(x) {order=(2, 0, 1)}: 4, 2, 3
        b = tanh(y): 3
        c = sub(a, b): 4, 2, 3
        d = permute(c) {order=(1, 2, 0)}: 2, 3, 4""",
        "tanh reshape sub",
    ),
    "transposed matrices": (
        "x: 3, 4; y: 3, 4",
        """a = permute(x) {order=(1, 0)}: 4, 3
        b = permute(y) {order=(1, 0)}: 4, 3
        d = sub(a, b): 4, 3""",
        "sub permute",
    ),
    "views of one shape of two stay": (
        "x: 2, 6; y: 3, 4",
        """m = tanh(x): 2, 6
        n = tanh(y): 3, 4
        a = reshape(m) {shape=(12,)}: 12
        b = reshape(n) {shape=(12,)}: 12
        c = add(a, b): 12""",
        "tanh reshape tanh reshape add",
    ),
    "different permutes of a sum stay": (
        "x: 3, 3, 3; y: 3, 3, 3",
        """a = permute(x) {order=(2, 0, 1)}: 3, 3, 3
        b = permute(y) {order=(1, 2, 0)}: 3, 3, 3
        d = sub(a, b): 3, 3, 3""",
        "permute permute sub",
    ),
    "a permute moves to the operand that has none": (
        "x: 2, 3, 4; y: 4, 2, 3",
        """a = permute(x) {order=(2, 0, 1)}: 4, 2, 3
        d = sub(a, y): 4, 2, 3
        e = permute(d) {order=(1, 2, 0)}: 2, 3, 4""",
        "permute sub",
    ),
    "concat, softmax, slice and pad let a permute through": (
        "x: 2, 3, 4; y: 2, 5, 4",
        """a = permute(x) {order=(2, 0, 1)}: 4, 2, 3
        b = permute(y) {order=(2, 0, 1)}: 4, 2, 5
        c = concat(a, b) {axis=-1}: 4, 2, 8
        d = softmax(c) {axis=2}: 4, 2, 8
        e = slice(d) {axis=-1; start=1; stop=7; step=2}: 4, 2, 3
        f = pad(e) {before=(1, 0, 2); after=(0, 0, 1); value=2.0}: 5, 2, 6
        g = mean(f) {axes=(2,); keep=True}: 5, 2, 1
        h = permute(g) {order=(1, 2, 0)}: 2, 1, 5""",
        "concat softmax slice pad mean",
    ),
    "a reduction of a permute": (
        "x: 2, 3, 4, 5",
        "a = permute(x) {order=(0, 2, 3, 1)}: 2, 4, 5, 3\nb = mean(a) {axes=(1, 2)}: 2, 3",
        "mean",
    ),
    "a reduction that leaves other places": (
        "x: 2, 3, 4, 5",
        "a = permute(x) {order=(3, 2, 1, 0)}: 5, 4, 3, 2\nb = amax(a) {axes=(-2,)}: 5, 4, 2",
        "amax permute",
    ),
    "a slice before the permute": (
        "x: 2, 3, 4",
        "a = permute(x) {order=(1, 2, 0)}: 3, 4, 2\nb = slice(a) {axis=1; start=1; stop=3}: 3, 2, 2",
        "slice permute",
    ),
    "an activation before the view": (
        "x: 2, 3, 4",
        "z = tanh(x): 2, 3, 4\na = reshape(z) {shape=(6, 4)}: 6, 4\nb = relu(a): 6, 4\nc = softmax(b): 6, 4",
        "tanh relu reshape softmax",
    ),
    "an activation of a viewed input stays behind it": (
        "x: 2, 3, 4",
        "a = reshape(x) {shape=(6, 4)}: 6, 4\nb = relu(a): 6, 4\nc = softmax(b): 6, 4",
        "reshape relu softmax",
    ),
    "a sum of views with a table": (
        "x: 2, 3, 4; y: 2, 3, 4; t: param 6, 4",
        """m = tanh(x): 2, 3, 4
        a = reshape(m) {shape=(6, 4)}: 6, 4
        b = reshape(y) {shape=(6, 4)}: 6, 4
        c = add(a, b): 6, 4
        d = add(c, t): 6, 4""",
        "tanh add add reshape",
    ),
    "slices of slices": (
        "x: 2, 20",
        "a = slice(x) {axis=1; start=1; stop=18; step=3}: 2, 6\nb = slice(a) {axis=-1; start=1; stop=6; step=2}: 2, 3",
        "slice",
    ),
    "slices along two dimensions stay": (
        "x: 6, 20",
        "a = slice(x) {axis=1; start=1; stop=8}: 6, 7\nb = slice(a) {axis=0; start=1; stop=6}: 5, 7",
        "slice slice",
    ),
    "concats of concats": (
        "x: 2, 3; y: 2, 4",
        "a = concat(x, y): 2, 7\nb = concat(y, a, x): 2, 14",
        "concat",
    ),
    "a concat that others need stays": (
        "x: 2, 3; y: 2, 4",
        "a = concat(x, y): 2, 7\nb = concat(a, x): 2, 10\nc = relu(a): 2, 7\nd = concat(b, c): 2, 17",
        "concat relu concat",
    ),
    "concats along two dimensions stay": (
        "x: 2, 3; y: 2, 3",
        "a = concat(x, y): 2, 6\nb = concat(a, a) {axis=0}: 4, 6",
        "concat concat",
    ),
    "a slice that is a part": (
        "x: 2, 3; y: 2, 4",
        "a = concat(x, y): 2, 7\nb = slice(a) {axis=1; start=3; stop=7}: 2, 4\nc = relu(b): 2, 4",
        "relu",
    ),
    "a slice within a part": (
        "x: 2, 3; y: 2, 4",
        "a = concat(x, y): 2, 7\nb = slice(a) {axis=1; start=3; stop=7; step=2}: 2, 2",
        "slice",
    ),
    "a slice within a part, without a step": (
        "x: 2, 3; y: 2, 4",
        "a = concat(x, y): 2, 7\nb = slice(a) {axis=1; start=4; stop=6}: 2, 2",
        "slice",
    ),
    "a slice of whole parts": (
        "x: 2, 3; y: 2, 4",
        "a = concat(x, y, x): 2, 10\nb = slice(a) {axis=1; start=3; stop=10}: 2, 7",
        "concat",
    ),
    "a slice across parts stays": (
        "x: 2, 3; y: 2, 4",
        "a = concat(x, y): 2, 7\nb = slice(a) {axis=1; start=2; stop=7}: 2, 5",
        "concat slice",
    ),
    "a slice of a concat along another dimension stays": (
        "x: 4, 3; y: 4, 3",
        "a = concat(x, y): 4, 6\nb = slice(a) {axis=0; start=1; stop=3}: 2, 6",
        "concat slice",
    ),
    "a slice of a concat with a step across parts stays": (
        "x: 2, 3; y: 2, 4",
        "a = concat(x, y): 2, 7\nb = slice(a) {axis=1; stop=7; step=2}: 2, 4",
        "concat slice",
    ),
    "a split put together again": (
        "x: 2, 7",
        """a = slice(x) {axis=1; stop=3}: 2, 3
        b = slice(x) {axis=1; start=3; stop=4}: 2, 1
        c = slice(x) {axis=1; start=4; stop=7}: 2, 3
        d = concat(a, b, c): 2, 7""",
        "",
    ),
    "a split put together in another order": (
        "x: 2, 7",
        """a = slice(x) {axis=1; stop=3}: 2, 3
        b = slice(x) {axis=1; start=3; stop=7}: 2, 4
        d = concat(b, a): 2, 7""",
        "slice slice concat",
    ),
    "neighbours beside a part that is none": (
        "x: 2, 7; y: 2, 3",
        """a = slice(x) {axis=1; start=1; stop=3}: 2, 2
        b = slice(x) {axis=1; start=3; stop=5}: 2, 2
        c = concat(a, b, y): 2, 7""",
        "slice concat",
    ),
    "slices with a step are no neighbours": (
        "x: 2, 8",
        """a = slice(x) {axis=1; stop=4; step=2}: 2, 2
        b = slice(x) {axis=1; start=4; stop=8; step=2}: 2, 2
        d = concat(a, b): 2, 4""",
        "slice slice concat",
    ),
    "neighbours of which both are needed stay": (
        "x: 2, 8",
        """a = slice(x) {axis=1; start=1; stop=4}: 2, 3
        b = slice(x) {axis=1; start=4; stop=8}: 2, 4
        c = relu(a): 2, 3
        d = relu(b): 2, 4
        e = concat(a, b, c, d): 2, 14""",
        "slice slice relu relu concat",
    ),
    "pads of pads": (
        "x: 2, 3",
        """a = pad(x) {before=(1, 0); after=(0, 2); value=1.5}: 3, 5
        b = pad(a) {before=(0, 1); after=(1, 0); value=1.5}: 4, 6""",
        "pad",
    ),
    "pads of two values stay": (
        "x: 2, 3",
        """a = pad(x) {before=(1, 0); after=(0, 2); value=1.5}: 3, 5
        b = pad(a) {before=(0, 1); after=(1, 0)}: 4, 6""",
        "pad pad",
    ),
    "a slice of padding alone": (
        "x: 2, 3",
        """a = pad(x) {before=(1, 2); after=(0, 2); value=1.5}: 3, 7
        b = slice(a) {axis=1; start=1; stop=5}: 3, 4""",
        "pad",
    ),
    "a slice into what is padded stays": (
        "x: 2, 3",
        """a = pad(x) {before=(1, 2); after=(0, 2); value=1.5}: 3, 7
        b = slice(a) {axis=1; start=3; stop=6}: 3, 3""",
        "pad slice",
    ),
    "a slice that ends in what is padded stays": (
        "x: 2, 3",
        """a = pad(x) {before=(1, 2); after=(0, 2); value=1.5}: 3, 7
        b = slice(a) {axis=1; start=1; stop=4}: 3, 3""",
        "pad slice",
    ),
    "a pad before a convolution": (
        "x: 1, 2, 5, 5; w: param 3, 2, 3, 3",
        """a = pad(x) {before=(0, 0, 0, 1); after=(0, 0, 1, 1)}: 1, 2, 6, 7
        b = conv2d(a, w) {stride=(2, 2); padding=(1, 0, 0, 0)}: 1, 3, 3, 3""",
        "conv2d",
    ),
    "a pad of another value before a convolution stays": (
        "x: 1, 2, 5, 5; w: param 3, 2, 3, 3",
        """a = pad(x) {before=(0, 0, 0, 1); after=(0, 0, 1, 1); value=1.0}: 1, 2, 6, 7
        b = conv2d(a, w): 1, 3, 4, 5""",
        "pad conv2d",
    ),
    "a pad of channels before a convolution stays": (
        "x: 1, 1, 5, 5; w: param 3, 2, 3, 3",
        """a = pad(x) {before=(0, 0, 0, 0); after=(0, 1, 0, 0)}: 1, 2, 5, 5
        b = conv2d(a, w): 1, 3, 3, 3""",
        "pad conv2d",
    ),
    "a pad before an average pool": (
        "x: 1, 2, 5, 5",
        """a = pad(x) {before=(0, 0, 1, 1); after=(0, 0, 0, 0)}: 1, 2, 6, 6
        b = avg_pool2d(a) {k=(2, 2); stride=(2, 2)}: 1, 2, 3, 3""",
        "avg_pool2d",
    ),
    "a pad before an average pool that leaves out its own padding stays": (
        "x: 1, 2, 5, 5",
        """a = pad(x) {before=(0, 0, 1, 1); after=(0, 0, 0, 0)}: 1, 2, 6, 6
        b = avg_pool2d(a) {k=(2, 2); stride=(2, 2); count_padding=False}: 1, 2, 3, 3""",
        "pad avg_pool2d",
    ),
    "a pad as wide as the pool's window stays": (
        "x: 1, 2, 4, 4",
        """a = pad(x) {before=(0, 0, 2, 2); after=(0, 0, 0, 0)}: 1, 2, 6, 6
        b = avg_pool2d(a) {k=(2, 2); stride=(2, 2)}: 1, 2, 3, 3""",
        "pad avg_pool2d",
    ),
    "a pad before a maximum of positive values": (
        "x: 1, 2, 5, 5",
        """r = relu(x): 1, 2, 5, 5
        a = pad(r) {before=(0, 0, 1, 1); after=(0, 0, 0, 0)}: 1, 2, 6, 6
        b = max_pool2d(a) {k=(2, 2); stride=(2, 2); padding=(0, 0, 1, 1)}: 1, 2, 3, 3""",
        "relu max_pool2d",
    ),
    "a pad before a maximum of any values stays": (
        "x: 1, 2, 5, 5",
        """a = pad(x) {before=(0, 0, 1, 1); after=(0, 0, 0, 0)}: 1, 2, 6, 6
        b = max_pool2d(a) {k=(2, 2); stride=(2, 2)}: 1, 2, 3, 3""",
        "pad max_pool2d",
    ),
    "a repetition that a product repeats by itself": (
        "x: 2, 3, 4; y: 1, 4",
        "a = expand(y) {shape=(2, 3, 4)}: 2, 3, 4\nb = mul(x, a): 2, 3, 4",
        "mul",
    ),
    "one of two repetitions stays": (
        "x: 3, 1; y: 1, 4",
        "a = expand(x) {shape=(2, 3, 4)}: 2, 3, 4\nc = expand(y) {shape=(2, 3, 4)}: 2, 3, 4\nb = sub(c, a): 2, 3, 4",
        "expand sub",
    ),
    "a repetition that gives the shape stays": (
        "y: 1, 4",
        "a = expand(y) {shape=(2, 3, 4)}: 2, 3, 4\nb = relu(a): 2, 3, 4",
        "expand relu",
    ),
    "a repeated table": (
        "x: 2, 3, 4; t: param 1, 3, 1",
        "a = expand(t) {shape=(2, 3, 4)}: 2, 3, 4\nb = add(x, a): 2, 3, 4",
        "add",
    ),
    "repetitions in a row": (
        "y: 1, 4",
        "a = expand(y) {shape=(3, 4)}: 3, 4\nb = expand(a) {shape=(2, 3, -1)}: 2, 3, 4",
        "expand",
    ),
    "a repetition that repeats nothing": ("y: 3, 4", "a = expand(y) {shape=(1, 3, -1)}: 1, 3, 4", "reshape"),
    "a gate of itself": ("x: 2, 3", "a = sigmoid(x): 2, 3\nb = mul(a, x): 2, 3", "silu"),
    "a gate of another": ("x: 2, 3; y: 2, 3", "a = sigmoid(x): 2, 3\nb = mul(a, y): 2, 3", "sigmoid mul"),
    "a hard gate of itself": ("x: 2, 3", "a = hard_sigmoid(x): 2, 3\nb = mul(x, a): 2, 3", "hard_swish"),
    "a maximum with 0": ("x: 2, 3", "z = constant() {value=0.0}: -\nb = maximum(z, x): 2, 3", "relu"),
    "a maximum with 1": ("x: 2, 3", "z = constant() {value=1.0}: -\nb = maximum(z, x): 2, 3", "maximum"),
    "relu twice": ("x: 2, 3", "a = relu(x): 2, 3\nb = relu(a): 2, 3", "relu"),
    "a mean with its dimensions put back": (
        "x: 2, 3, 4, 4",
        "a = mean(x) {axes=(2, 3)}: 2, 3\nb = reshape(a) {shape=(2, 3, 1, 1)}: 2, 3, 1, 1",
        "mean",
    ),
    "a mean with its dimensions taken away": (
        "x: 2, 3, 4, 4",
        "a = mean(x) {axes=(-1, 2); keep=True}: 2, 3, 1, 1\nb = flatten(a): 2, 3",
        "mean",
    ),
    "a mean in another shape stays": (
        "x: 2, 3, 4, 4",
        "a = mean(x) {axes=(2, 3)}: 2, 3\nb = reshape(a) {shape=(3, 2)}: 3, 2",
        "mean reshape",
    ),
    "a mean over extents of 1": ("x: 2, 1, 4", "a = mean(x) {axes=(1,)}: 2, 4", "reshape"),
    "a mean over nothing": ("x: 2, 1, 4", "a = mean(x) {axes=()}: 2, 1, 4", ""),
    "a pool of one window": ("x: 2, 3, 4, 5", "a = avg_pool2d(x) {k=(4, 5); stride=(1, 1)}: 2, 3, 1, 1", "mean"),
    "a global mean": (
        "x: 2, 3, 4, 5",
        "a = global_avg_pool(x) {keep=True}: 2, 3, 1, 1\nb = relu(a): 2, 3, 1, 1",
        "mean relu",
    ),
    "a pool of more than one window stays": (
        "x: 2, 3, 4, 5",
        "a = avg_pool2d(x) {k=(4, 4); stride=(1, 1)}: 2, 3, 1, 2",
        "avg_pool2d",
    ),
    "a pool of every other element stays": (
        "x: 2, 3, 4, 5",
        "a = max_pool2d(x) {k=(1, 1); stride=(2, 1)}: 2, 3, 2, 5",
        "max_pool2d",
    ),
    "a pool that keeps the extents stays": (
        "x: 2, 3, 4, 5",
        "a = max_pool2d(x) {k=(3, 3); stride=(1, 1); padding=(1, 1, 1, 1)}: 2, 3, 4, 5",
        "max_pool2d",
    ),
    "a pool of single elements": ("x: 2, 3, 4, 5", "a = max_pool2d(x) {k=(1, 1); stride=(1, 1)}: 2, 3, 4, 5", ""),
    "convolutions of sequences, as pictures of height 1": (
        "x: 2, 4, 9; w: param 6, 2, 3; b: param 6; v: param 6, 6, 2",
        """a = conv1d(x, w, b) {stride=(2,); padding=(3, 1); dilation=(2,); groups=2}: 2, 6, 5
        r = relu(a): 2, 6, 5
        c = conv1d(r, v): 2, 6, 4""",
        "reshape conv2d relu conv2d reshape",
    ),
    "a negation is a factor": ("x: 2, 3", "a = neg(x): 2, 3", "mul"),
    "a matrix of weights": ("x: 2, 3, 4; w: param 4, 5", "a = matmul(x, w): 2, 3, 5", "linear"),
    "a matrix of weights in front stays": ("x: 4, 5; w: param 3, 4", "a = matmul(w, x): 3, 5", "matmul"),
    "matrices of weights for each head stay": ("x: 2, 3, 4; w: param 2, 4, 5", "a = matmul(x, w): 2, 3, 5", "matmul"),
    "linear attention: keys with values first": (
        "q: 2, 64, 4; k: 2, 4, 64; v: 2, 64, 4",
        "a = matmul(q, k): 2, 64, 64\nb = matmul(a, v): 2, 64, 4",
        "matmul matmul",
    ),
    "products that share a factor": (
        "x: 2, 3; y: 2, 3; w: param 4, 3",
        "a = linear(x, w): 2, 4\nb = linear(y, w): 2, 4\nc = add(a, b): 2, 4",
        "add linear",
    ),
    "products that share the factor in front": (
        "x: 3, 4; y: 3, 4; w: 2, 3",
        "a = matmul(w, x): 2, 4\nb = matmul(w, y): 2, 4\nc = add(a, b): 2, 4",
        "add matmul",
    ),
    "elements that share a factor": (
        "x: 2, 3; y: 2, 3; w: 2, 3",
        "a = mul(w, x): 2, 3\nb = mul(y, w): 2, 3\nc = add(a, b): 2, 3",
        "add mul",
    ),
    "convolutions that share weights": (
        "x: 1, 2, 4, 4; y: 1, 2, 4, 4; w: param 3, 2, 3, 3",
        "a = conv2d(x, w): 1, 3, 2, 2\nb = conv2d(y, w): 1, 3, 2, 2\nc = add(a, b): 1, 3, 2, 2",
        "add conv2d",
    ),
    "convolutions with weights and strides of their own stay": (
        "x: 1, 2, 4, 4; y: 1, 2, 4, 4; w: param 3, 2, 1, 1",
        """a = conv2d(x, w) {stride=(2, 2)}: 1, 3, 2, 2
        b = conv2d(y, w) {stride=(2, 2); padding=(0, 0, 1, 1)}: 1, 3, 3, 3
        e = slice(b) {axis=2; stop=2}: 1, 3, 2, 3
        f = slice(e) {axis=3; stop=2}: 1, 3, 2, 2
        c = add(a, f): 1, 3, 2, 2""",
        "conv2d conv2d slice slice add",
    ),
    "products with biases stay": (
        "x: 2, 3; y: 2, 3; w: param 4, 3; b: param 4",
        "a = linear(x, w, b): 2, 4\nd = linear(y, w, b): 2, 4\nc = add(a, d): 2, 4",
        "linear linear add",
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_is_left(name: str) -> None:
    source, body, expected = MOVES[name]
    graph = network(source, body)
    after = check_pass(canonicalize, graph)
    assert left(after) == expected, after


def test_a_chain_of_products_is_taken_in_the_cheapest_order() -> None:
    """Against all orders, by brute force."""
    rng = random.Random(5)
    for _ in range(12):
        sizes = [rng.choice((1, 2, 3, 8, 17)) for _ in range(6)]
        graph = Graph("Chain")
        factors = [graph.input(f"x{i}", TensorType((sizes[i], sizes[i + 1]))) for i in range(5)]
        while len(factors) > 1:
            at = rng.randrange(len(factors) - 1)
            factors[at : at + 2] = [graph.apply("matmul", factors[at : at + 2])]
        graph.outputs = [factors[0]]
        assert count_macs(check_pass(canonicalize, graph)) == _cheapest(sizes)


def _cheapest(sizes: list[int]) -> int:
    if len(sizes) == 2:
        return 0
    return min(
        _cheapest(sizes[: at + 1]) + _cheapest(sizes[at:]) + sizes[0] * sizes[at] * sizes[-1]
        for at in range(1, len(sizes) - 1)
    )


def test_products_of_weights_cost_nothing() -> None:
    """LoRA's two matrices: their product is computed once, whatever its size, and read as one."""
    graph = network("x: 1, 50; a: param 50, 2; b: param 2, 50", "c = matmul(x, a): 1, 2\nd = matmul(c, b): 1, 50")
    assert left(check_pass(canonicalize, graph)) == "linear linear"  # 200 multiplications, and one matrix takes 2500
    graph = network("x: 1, 8; a: param 8, 8; b: param 8, 8", "c = matmul(x, a): 1, 8\nd = matmul(c, b): 1, 8")
    assert left(check_pass(canonicalize, graph)) == "linear"


def test_a_chain_that_is_cheapest_as_it_is_says_so() -> None:
    graph = network("a: 2, 3; b: 3, 4; c: 4, 5", "d = matmul(a, b): 2, 4\ne = matmul(d, c): 2, 5")
    journal = Journal()
    canonicalize(graph, journal)
    assert [event.reason for event in journal.refused] == [
        "no order of these 3 factors costs less than 64 multiplications"
    ]


def test_a_chain_longer_than_calls_may_nest_keeps_its_order() -> None:
    graph = Graph("Chain")
    value = graph.input("x", TensorType((2, 4)))
    for position in range(sys.getrecursionlimit()):
        value = graph.apply("matmul", [value, graph.input(f"w{position}", TensorType((4, 4)))])
    graph.outputs = [value]
    journal = Journal()
    assert canonicalize(graph, journal).count("matmul") == sys.getrecursionlimit()
    (reason,) = {event.reason for event in journal.refused}
    assert reason == f"it has {sys.getrecursionlimit() + 1} factors, and the order of no more than 64 is looked for"


@st.composite
def rearrangements(draw: st.DrawFn) -> Graph:
    """Reshapes and permutes in a row, with activations and second uses between them."""
    graph = Graph("Rearranged")
    factors = draw(st.lists(st.sampled_from((1, 2, 3, 4)), min_size=1, max_size=5))
    value = graph.input("x", TensorType(tuple(factors)))
    outputs: list[Value] = []
    for _ in range(draw(st.integers(1, 6))):
        shape = graph.type(value).concrete
        kind = draw(st.sampled_from(("permute", "permute", "join", "split", "any", "ones", "relu", "keep", "twice")))
        if kind == "permute":
            value = graph.apply("permute", [value], {"order": tuple(draw(st.permutations(range(len(shape)))))})
        elif kind == "join" and len(shape) > 1:
            at = draw(st.integers(0, len(shape) - 2))
            joined = (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
            value = graph.apply("reshape", [value], {"shape": joined})
        elif kind == "split":
            at = draw(st.integers(0, len(shape) - 1))
            divisors = [d for d in range(1, shape[at] + 1) if shape[at] % d == 0]
            first = draw(st.sampled_from(divisors))
            cut = (*shape[:at], first, shape[at] // first, *shape[at + 1 :])
            value = graph.apply("reshape", [value], {"shape": cut})
        elif kind == "any":
            value = graph.apply("reshape", [value], {"shape": tuple(reversed(shape))})
        elif kind == "ones":
            at = draw(st.integers(0, len(shape)))
            value = graph.apply("reshape", [value], {"shape": (*shape[:at], 1, *shape[at:])})
        elif kind == "relu":
            value = graph.apply(draw(st.sampled_from(("tanh", "relu"))), [value])
        elif kind == "keep":
            outputs.append(value)
        elif kind == "twice":
            value = graph.apply("mul", [value, graph.apply("sigmoid", [value])])
    graph.outputs = [*outputs, value]
    return graph


@given(graph=rearrangements())
@settings(max_examples=150, deadline=None)
def test_rearrangements_stay_equal_and_become_no_longer(graph: Graph) -> None:
    after = check_pass(canonicalize, graph)
    assert after.count("permute") <= graph.count("permute")
    assert len(after.live()) <= len(graph.live())


@given(graph=rearrangements())
@settings(max_examples=60, deadline=None)
def test_what_is_rearranged_back_is_gone(graph: Graph) -> None:
    """The chain followed by its inverse: nothing that moves elements is left between input and output."""
    straight = graph.copy()
    steps = [i for i in straight.live() if straight.node(i).op in ("permute", "reshape")]
    if len(steps) != len(straight.live()):
        return
    value = straight.outputs[-1]
    for identity in reversed(steps):
        node, source = straight.node(identity), straight.operands(identity)[0]
        if node.op == "permute":
            order = node.attrs["order"]
            value = straight.apply("permute", [value], {"order": tuple(order.index(a) for a in range(len(order)))})
        else:
            value = straight.apply("reshape", [value], {"shape": straight.type(source).shape})
    straight.outputs = [value]
    nodes = [straight.node(i) for i in straight.live()]
    cut = shortest(nodes, straight.node(straight.inputs[0]).types[0].shape) is None  # a reshape across factors
    assert canonicalize(straight).live() == [] or cut
