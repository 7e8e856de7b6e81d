"""One side of a product on tensor cores, in shared memory: brought there in runs, and read in fragments.

    Runs (memory)  --fetch-->  a part of shared memory, lines of runs  --load-->  fragments of a warp, by ldmatrix

In shared memory, runs of 8 numbers lie in another order than in the matrix (`slot`): the eight rows that ldmatrix
reads at a time, and the runs that eight threads write, are in eight different groups of banks. Where a line has 1, 2, 4
or more of such runs, they change places within it, without gaps between lines; any other line is as long as an odd
number of runs. A side whose runs lie along its own index, not along k, is transposed on the way to registers.

(Kerr, Merrill and Tran, "CUTLASS", 2017; its tiles in shared memory without conflicts:
cutlass/media/docs/implicit_gemm_convolution.md.)
"""

from __future__ import annotations

from typing import Any, Literal

from tvm import tirx

from specc.backends.tvm.cuda.intrinsics import FRAGMENT, address, copy, load_fragment, put
from specc.backends.tvm.cuda.runs import RUN, Runs
from specc.backends.tvm.cuda.threads import local, only_if, unrolled
from specc.backends.tvm.emitter import Emitter
from specc.backends.tvm.expression import Scalar

_WORDS = RUN // 2
"""Words of shared memory that a run takes."""


def pitch(runs: int) -> int:
    """The runs from the beginning of a line to that of the next one."""
    return runs if _swapped(runs) else runs | 1


def _swapped(runs: int) -> bool:
    return runs & (runs - 1) == 0


class Side:
    """`extent` of a side's own index x `terms`, in a ring of parts of `part` words, each with it from word `first` on.

    `bounded` says whether some of that lies beyond the last index, and the last term: there, zeros are brought.
    """

    def __init__(
        self, runs: Runs, extent: int, terms: int, bounded: tuple[bool, bool], first: int, part: int, threads: int
    ) -> None:
        self.runs, self.bounded, self.first, self.part, self.threads = runs, bounded, first, part, threads
        self.lines, self.across = (extent, terms // RUN) if runs.along == "k" else (terms, extent // RUN)

    def slot(self, emitter: Emitter, stage: Any, line: Any, run: Any) -> Any:
        """The word of shared memory at which run `run` of a line begins: neighbouring lines have theirs elsewhere."""
        place = line * pitch(self.across)
        if _swapped(self.across):
            turned = emitter.divmod(line, max(1, RUN // self.across))[0] % min(RUN, self.across)
            run = tirx.bitwise_xor(_index(run), _index(turned))
        return stage * self.part + self.first + (place + run) * _WORDS

    def fetch(self, emitter: Emitter, memory: Any, first: tuple[Any, Any, Any], stage: Any, thread: Any) -> None:
        """Begins to bring a part; `first` are the batch, the index and the term that it begins with."""
        b, index, term = first
        runs, count = self.runs, self.lines * self.across
        threads, math = self.threads, emitter.math
        with unrolled(emitter, -(-count // threads)) as j:
            number = j * threads + thread
            with only_if(count % threads == 0 or number < count):
                if runs.spread:
                    run, line = emitter.divmod(number, self.lines)
                else:
                    line, run = emitter.divmod(number, self.across)
                to = self.slot(emitter, stage, line, run)
                own, k = (line, run * RUN) if runs.along == "k" else (run * RUN, line)
                own, k = emitter.simplify(index + own), emitter.simplify(term + k)

                def place(part: Any, own: Any = own, k: Any = k) -> tuple[Any, Any, Any]:
                    """The index and the term of a number of the run, and whether there is one."""
                    m, t = (own, k + part) if runs.along == "k" else (own + part, k)
                    inside = [m < runs.extent if self.bounded[0] else True, t < runs.terms if self.bounded[1] else True]
                    return emitter.simplify(m), emitter.simplify(t), math.all(*inside)

                if runs.width > 1:
                    for part in range(0, RUN, runs.width):
                        m, t, there = place(part)
                        copy(address(memory, to + part // 2), _address(runs.at(b, m, t)), runs.width, there)
                else:
                    held = local(RUN, "uint16")
                    with unrolled(emitter, RUN) as part:
                        m, t, there = place(part)
                        read = Scalar(runs.at(b, m, t), reads=True)
                        emitter.store(held, math.select(there, read, Scalar(tirx.const(0, "uint16"))), [part])
                    put(address(memory, to), address(held, 0))

    def load(
        self,
        emitter: Emitter,
        memory: Any,
        fragments: Any,
        number: Any,
        first: tuple[Any, Any],
        stage: Any,
        lane: Any,
        second: Literal["own", "k"],
    ) -> None:
        """Fragment `number`: 16 of the side's own index from the first on, and 16 terms, the `first[1]`th of a part.

        It is four matrices of 8 x 8; `second` says along which index the second one lies beside the first.
        """
        index, k = first
        matrix, row = emitter.divmod(lane, 8)
        outer, inner = emitter.divmod(matrix, 2)
        beside, deeper = (inner, outer) if second == "own" else (outer, inner)
        if self.runs.along == "k":
            line, run = index + beside * 8 + row, k * 2 + deeper
        else:
            line, run = k * 16 + deeper * 8 + row, emitter.divmod(index, RUN)[0] + beside
        at = self.slot(emitter, stage, emitter.simplify(line), emitter.simplify(run))
        load_fragment(fragments, number * FRAGMENT, address(memory, at), self.runs.along == "own")


def _index(value: Any) -> Any:
    return tirx.const(value, "int32") if isinstance(value, int) else value


def _address(load: Any) -> Any:
    return tirx.call_intrin("handle", "tirx.address_of", load)
