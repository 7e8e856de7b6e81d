"""The slips that people make who know other languages: where the parser stopped --> what to write instead.

A table, read from the top: the first slip that fits the place is told. `tests/grammar/test_slips.py` has an example of
each. The words of a slip are for somebody who knows PyTorch and has not read docs/language.md.
"""

from __future__ import annotations

import re

from specc.grammar.slip import Slip, misspelt, words

_RESERVED = "if|elif|else|for|in|and|or|not|true|false|none|return"
_SIGNATURE = r"(block|network)\b"
_ITEM = "`use`, `block`, `network`, `variants`, `rename` and `check`"
_IN_BRACKETS = "for example `y = (x |> conv2d(64, k=3) |> batch_norm |> relu)`, a member a line"


SLIPS = (
    # ---- characters
    Slip(lambda p: p.odd and p.text[0] in "“”„‟«»‘’", "a text stands in straight double quotes", 'for example "same"'),
    Slip(lambda p: p.odd and p.text[0] in "−–—‒", "the sign of minus is `-`"),
    Slip(
        lambda p: p.odd,
        "this character stands in texts and comments alone",
        "names are made of a to z, A to Z, 0 to 9 and `_`, lines of these, of signs and of blanks",
    ),
    # ---- comments, ends of lines, quotes
    Slip(
        lambda p: (
            (p.ahead(r"/\*|//|--|%") and not p.before.strip()) or (p.found == "NAME" and p.behind(r"//\s*[\w ]+"))
        ),
        "a comment begins with `#`",
    ),
    Slip(lambda p: p.text == ";", "a line holds one statement, without a `;`", "the next one gets a line of its own"),
    Slip(lambda p: p.text == "\\", "an expression of several lines stands in brackets", _IN_BRACKETS),
    Slip(
        lambda p: p.found == "_NL" and p.behind(r"\|>|[-+*/%]|\b(and|or|not|in)"),
        "an expression of several lines stands in brackets",
        _IN_BRACKETS,
    ),
    Slip(
        lambda p: p.found == "_INDENT" and p.begins(r"\|>|[-+*/%]|(and|or)\b"),
        "an expression of several lines stands in brackets",
        _IN_BRACKETS,
    ),
    Slip(lambda p: p.ahead("'''"), "a docstring stands in three double quotes", '`"""What the block does."""`'),
    Slip(lambda p: p.text in {"'", "`"}, "a text stands in double quotes", 'for example "same"'),
    Slip(
        lambda p: p.ahead(r'"[^"]*"\s*$') and not p.before.strip() and not p.expects("STRING"),
        "a docstring stands in three double quotes",
        '`"""What the block does."""`',
    ),
    Slip(lambda p: p.text.startswith('"'), "this text has no closing quote on its line"),
    Slip(
        lambda p: p.ahead('f"') or (p.ahead('"') and p.behind(r"\bf")) or (p.found == "STRING" and p.behind(r"\bf")),
        "a text needs no `f` in front of it",
        "messages of `require` and `ensure` compute what stands in their braces",
    ),
    # ---- the file
    Slip(
        lambda p: p.expects("SPECC"),
        "a file begins with the version of the language",
        "write `specc 1` in the first line",
    ),
    Slip(
        lambda p: p.text in {"import", "from"} and p.expects("USE"),
        "other files are used by `use`",
        "for example `use std.conv: ConvBN, SqueezeExcite`",
    ),
    Slip(lambda p: p.found == "USE" or (p.text == "use" and p.expects("BLOCK")), "`use` stands above all blocks"),
    Slip(
        lambda p: p.begins(r"use\b"),
        "`use` names a file, and behind `:` what is wanted of it",
        "for example `use std.conv: ConvBN, SqueezeExcite`",
    ),
    Slip(
        lambda p: (
            p.begins("(def|class|module|net|model|layer|function|func|fun|fn|struct)\\b") and not p.begins(r"\w+\s*=")
        ),
        "specc has blocks and networks",
        "for example `block Mixer(x: [n, c, h, w]) -> [n, c, h, w]:`",
    ),
    *(
        misspelt(word, example, behind=None)
        for word, example in (
            ("network", "network Net(image: [n = 1, 3, h = 32, w = 32]) -> [n, 10]:"),
            ("block", "block Mixer(x: [n, c, h, w]) -> [n, c, h, w]:"),
            ("variants", "variants Net:"),
            ("rename", "rename Net:"),
            ("check", "check Net:"),
        )
    ),
    Slip(
        lambda p: p.expects("BLOCK") and bool(p.text),
        f"only {_ITEM} stand at the left margin",
        "values and operators stand inside of a block or a network",
    ),
    # ---- words of other languages
    Slip(lambda p: p.begins(r"while\b"), "there is no `while`: everything ends", "`for i in range(8):` repeats"),
    Slip(lambda p: p.begins(r"(else\s+if|elseif|elsif|elif\s+if)\b"), "`else if` is one word here", "`elif c > 2:`"),
    Slip(
        lambda p: p.begins(r"for\b(?!.*\bin\b)") and not p.begins(r"for\s*="),
        "a loop goes over a list",
        "for example `for i in range(3):` or `for i, dim in enumerate(dims):`",
    ),
    Slip(
        lambda p: p.begins(r"pass\s*$"),
        "there is no `pass`",
        "a block returns something at least; an `if` that does nothing is left away",
    ),
    Slip(
        lambda p: p.begins(r"(end\w*|fi|done)\s*$"),
        "nothing closes what a `:` opens",
        "what belongs to it is indented by four spaces; the first line that is not ends it",
    ),
    Slip(
        lambda p: p.begins(r"(break|continue)\s*$"),
        "a loop goes over the whole of its list",
        "a part of one is `dims[:2]`, or `[d for d in dims if d > 8]`",
    ),
    Slip(
        lambda p: p.begins(r"print\s*\("),
        "a spec prints nothing",
        '`specc show` and `specc check` print shapes, and `ensure condition, "{value}"` shows a value',
    ),
    words("let|var|val|const|auto|mut|local|global", "a name needs no word in front of it", "`y = relu(x)`"),
    words("raise|throw|assert|except|try", "what must hold is said by `require`", '`require c > 3, "{c} channels"`'),
    words("switch|match|case", "a choice is made by `if`, `elif` and `else`", '`if act == "relu":`'),
    words("import|from", "other files are used by `use`, above all blocks", "`use std.conv: ConvBN`"),
    words(
        "with|del|yield|async|await|goto|do", "there is no such statement", "a block has names, `if`, `for`, `return`"
    ),
    Slip(
        lambda p: "lambda" in p.before,
        "there is no `lambda`",
        "a call with an argument left open is a block, too: `leaky_relu(_, slope=0.1)`",
    ),
    Slip(lambda p: p.text == "is", "values are compared by `==`", "`mask == none`, `mask != none`"),
    Slip(lambda p: p.text in {"then", "do"}, "the condition ends with `:`", "`if c > 3:`"),
    Slip(
        lambda p: p.begins(rf"(?:{_RESERVED})\s*=(?!=)"),
        "this word belongs to the language, and is no name",
        f"reserved are {', '.join(_RESERVED.split('|'))}",
    ),
    # ---- words of this language, nearly
    *(
        misspelt(word, example)
        for word, example in (
            ("param", "param table: [8, 8] init normal(0.02)"),
            ("buffer", "buffer scale: [8] init ones"),
            ("require", 'require c > 3, "{c} channels"'),
            ("return", "return relu(x)"),
            ("ensure", "ensure y merges into conv2d"),
            ("for", "for i in range(3):"),
            ("elif", "elif c > 2:"),
        )
    ),
    misspelt("else", "else:", behind="COLON"),
    # ---- operators of other languages
    Slip(
        lambda p: p.behind(r"\bself") and p.text == ".",
        "`self.name` is written `name`",
        "what a line names belongs to the block: `conv = conv2d(x, 64)`; a numbered member is `self[0]`",
    ),
    Slip(
        lambda p: p.text == "." and p.ahead(r"\.\.\.|\.\.\w") and p.bracket == "[",
        "there is no `...`",
        "`slice` names the dimension: `slice(x, axis=-1, stop=8)`",
    ),
    Slip(lambda p: p.text == "." and p.ahead(r"\.\."), "numbers in a row are `range`", "`for i in range(3):`"),
    Slip(
        lambda p: p.text == "." and (p.ahead(r"\.\d") or p.behind(r"\b\d+")),
        "a number has digits on both sides of its point",
        "`0.5`, `1.0`",
    ),
    Slip(
        lambda p: p.text == "." and p.behind(r"\b(nn|torch|F|functional|tf|np|jnp|keras|layers)"),
        "operators are called by their names alone",
        "`conv2d(x, 64, k=3)`; docs/operators.md lists them",
    ),
    Slip(
        lambda p: p.text == "." and p.ahead(r"\.(append|extend|insert)\b"),
        "a list is not changed, but made anew",
        "`skips = skips + [x]`; in a loop an indexed name is a list, too: `skips[i] = x`",
    ),
    Slip(
        lambda p: p.text == "." and p.ahead(r"\.(shape|size)\b"),
        "the extents of a tensor are `shape(x)`",
        "`shape(x)[0]` is the first; where its type names them, `[n, c, h, w]`, they are `n`, `c`, `h` and `w`",
    ),
    Slip(
        lambda p: p.text == ".",
        "tensors have no methods: operators are called with them",
        "`relu(x)`, `reshape(x, [n, c])`; `shape(x)` gives the extents",
    ),
    Slip(
        lambda p: p.ahead(r"=>") and p.begins(_SIGNATURE),
        "the result stands behind `->`",
        "`block Mixer(x: [n, c, h, w]) -> [n, c, h, w]:`",
    ),
    Slip(
        lambda p: p.ahead(r"=>") or (p.text == ">" and p.before.endswith(("-", ">", "="))),
        "a pipe is written `|>`",
        "`y = x |> relu`",
    ),
    Slip(lambda p: p.text == ">" and p.before.endswith("<"), "what differs is compared by `!=`"),
    Slip(
        lambda p: p.ahead(r"(\*\*|//|[-+*/%@|&^])=|\+\+|--") and p.bracket == "",
        "a name is given a value by `=` alone",
        "`x = x + y`",
    ),
    Slip(lambda p: p.text == "@" and not p.before.strip(), "there are no decorators"),
    Slip(lambda p: p.text == "@", "a matrix product is an operator with a name", "`matmul(a, b)`"),
    Slip(lambda p: p.text == "^", "a power is written `**`", "`x ** 2`"),
    Slip(
        lambda p: p.text == "?" and not p.begins(_SIGNATURE),
        "a choice is written `a if condition else b`",
        "`s = 2 if i > 0 else 1`",
    ),
    Slip(
        lambda p: p.text in {"!", "&", "|", "&&", "||"},
        "logic is written with `and`, `or`, `not`",
        "a pipe is `|>`",
    ),
    Slip(
        lambda p: p.found == "COMPARISON" and p.begins(_SIGNATURE),
        "what a list holds stands in brackets",
        "`dims: list[int]`",
    ),
    Slip(
        lambda p: p.found == "COMPARISON" and re.search(r"[<>=]", p.before) is not None and not p.expects("EQUAL"),
        "comparisons make no chains",
        "`1 < c and c < 3`",
    ),
    Slip(
        lambda p: p.text in {"{", "}"} and p.behind(r"[=(,\[]|\breturn|\bin"),
        "there are no dictionaries",
        "lists beside each other do: `for name, dim in zip(names, dims):`",
    ),
    Slip(
        lambda p: p.text in {"{", "}"},
        "there are no braces",
        "a line ends with `:`, and what belongs to it is indented by four spaces",
    ),
    Slip(
        lambda p: p.text == ":" and p.ahead(r":=") and p.bracket == "",
        "a name is given a value by `=` alone",
        "`y = relu(x)`",
    ),
    # ---- arguments and indices
    Slip(
        lambda p: p.text == ":" and p.bracket == "(" and not p.begins(_SIGNATURE),
        "an argument is given by its name with `=`",
        "`conv2d(x, 64, k=3)`",
    ),
    Slip(
        lambda p: p.text == "=" and p.behind(r"^\s*[\w\[\], ]+=\s*\w+(\[\w+\])?"),
        "a line has one `=`",
        "`y = relu(x)`, and `z = y` in the next line",
    ),
    Slip(
        lambda p: p.found == "COMMA" and not p.bracket and p.begins(r"[\w\[\], ]+=[^=]") and not p.behind(r"[,=]"),
        "the values of several names stand in brackets",
        "`a, b = [x, relu(x)]`",
    ),
    Slip(
        lambda p: p.found == "COMMA" and p.behind(","),
        "there is a comma too many",
    ),
    Slip(
        lambda p: p.text == "," and p.bracket == "[" and p.behind(r"[\w)\]]\[[^\[\]]*"),
        "a tensor is cut along one dimension at a time",
        "`slice(x, axis=1, start=0, stop=8)`; an element of a list is `dims[i]`",
    ),
    Slip(
        lambda p: p.begins(_SIGNATURE) and p.behind(r"\*") and p.found in {"STAR", "COMMA"},
        "parameters of any number have a name and a type",
        "`*xs: [n, c, h, w]`; those declared behind it are given by name",
    ),
    Slip(
        lambda p: p.text in {"*", "**"} and p.bracket == "(" and p.behind(r"[(,]\s*\*?"),
        "arguments by name are written out",
        "`conv2d(x, 64, k=3)`; `*list` spreads a list",
    ),
    Slip(
        lambda p: p.text == "for" and p.bracket == "(",
        "a comprehension stands in square brackets",
        "`sum([k for k in ks])`",
    ),
    Slip(
        lambda p: p.text in {")", "]"} and not p.bracket,
        "nothing opens this bracket",
    ),
    Slip(lambda p: p.text == ")" and p.bracket == "[", "`[` is closed by `]`"),
    Slip(lambda p: p.text == "]" and p.bracket == "(", "`(` is closed by `)`"),
    Slip(
        lambda p: (
            p.found in {"NAME", "NUMBER", "STRING", "LSQB", "TRUE", "FALSE", "NONE"}
            and p.bracket != ""
            and p.behind(r'[\w)\]"]')
            and p.expects("COMMA")
            and not p.begins(_SIGNATURE)
        ),
        "a comma is missing here",
        "a text of several words stands in double quotes",
    ),
    Slip(
        lambda p: p.text[:1].isdigit() and not p.text.isdigit() and p.found == "",
        "this is no number",
        "numbers are written 64, 0.5, 1e-5, 8.8M; names do not begin with a digit",
    ),
    # ---- signatures
    Slip(
        lambda p: p.begins(_SIGNATURE) and p.text in {"[", "="} and p.expects("__ANON_0"),
        "the result stands behind `->`",
        "`block Mixer(x: [n, c, h, w]) -> [n, c, h, w]:`",
    ),
    Slip(
        lambda p: p.begins(_SIGNATURE) and p.behind(r"\)\s*:") and p.expects("_NL") and p.found != "_NL",
        "the result stands behind `->`, and `:` ends the line",
        "`block Mixer(x: [n, c, h, w]) -> [n, c, h, w]:`",
    ),
    Slip(
        lambda p: p.begins(rf"{_SIGNATURE}\s+\w+\s*:") and p.text == ":",
        "a block has parameters",
        "`block Mixer(x: [n, c, h, w]) -> [n, c, h, w]:`",
    ),
    Slip(
        lambda p: p.begins(_SIGNATURE) and p.expected <= {"COLON", "RPAR"} and p.expects("COLON") and p.bracket == "(",
        "a parameter needs a type",
        "a tensor is `x: [n, c, h, w]`, a number `k: int = 3`, a block `act: block = relu`",
    ),
    Slip(
        lambda p: p.begins(_SIGNATURE) and p.text == "(" and p.behind(":"),
        "the extents of a tensor stand in square brackets",
        "`x: [n, c, h, w]`",
    ),
    Slip(
        lambda p: p.begins(_SIGNATURE) and p.behind("->"),
        "a result is a tensor, or several in brackets",
        "`-> [n, c, h, w]`, `-> ([n, c], [n, d])`, `-> *[n, c]` for any number",
    ),
    Slip(
        lambda p: p.begins(_SIGNATURE) and p.bracket == "(" and p.expects("EQUAL", "RPAR") and p.found != "COLON",
        "a default stands behind `=`, and the next parameter behind a comma",
        "`k: int = 3, s: int = 1`",
    ),
    # ---- indentation
    Slip(
        lambda p: p.found == "_INDENT" and not p.expects("_INDENT"),
        "this line is indented, but the line above opens nothing",
        "only lines that end in `:` are followed by indented ones",
    ),
    Slip(
        lambda p: p.expects("_INDENT") and p.found != "_INDENT",
        "an indented line is missing here",
        "what belongs to the line with `:` stands below it, indented by four spaces",
    ),
    Slip(
        lambda p: p.found == "_DEDENT" and p.expects("ENSURE"),
        "a block has more than a docstring",
        "at least `return x`",
    ),
    # ---- names and values
    Slip(
        lambda p: p.text == "=" and p.expects("COMPARISON"),
        "`=` gives a name; a comparison is written `==`",
    ),
    Slip(
        lambda p: p.text == "=" and p.expected == {"COLON"},
        "a variant has a name, and gives values behind `:`",
        "`small: width = 64, depth = 2`",
    ),
    Slip(
        lambda p: p.text == ":" and p.expected <= {"EQUAL", "LSQB"} and p.expects("EQUAL"),
        "a value is given by `=`",
        "`small: width = 64, depth = 2`",
    ),
    Slip(
        lambda p: p.begins('"') and p.expected == {"__ANON_0"},
        "an old name and a new one stand on both sides of `->`",
        '`"module.*" -> "*"`',
    ),
    Slip(
        lambda p: p.expects("STRING") and p.expected <= {"STRING", "_DEDENT"} and p.found == "NAME",
        "a text stands in double quotes",
        '`"module.*" -> "*"`',
    ),
    Slip(
        lambda p: p.begins(r"check\b") and p.found in {"COLON", "LPAR"},
        "a check names its network or variant",
        "`check Tiny with image = [1, 3, 32, 32]:`",
    ),
    Slip(
        lambda p: p.text == ":" and p.expects("EQUAL") and p.begins(r"\w+\s*:"),
        "a name is given a value without a type",
        "`k = 3`; types stand in the parameters of a block",
    ),
    Slip(
        lambda p: (
            p.begins(r"(if|elif|else|for|block|network|variants|rename|check)\b")
            and p.expects("COLON")
            and p.found in {"_NL", "_INDENT"}
        ),
        "this line needs a `:` at its end",
    ),
    Slip(lambda p: p.found == "_NL" and p.behind(r"\breturn"), "`return` gives one tensor or several", "`return x`"),
    Slip(
        lambda p: (
            p.begins(r"[^=#\"]*[-+*/.()][^=#\"]*[^=!<>:]=[^=]")
            and not p.bracket
            and p.expected & {"EQUAL", "PARAM"} != set()
        ),
        "this cannot stand on the left of `=`",
        "a line gives a name, `conv1 = ...`, an indexed name, `blocks[i] = ...`, or several, `a, b = ...`",
    ),
    Slip(
        lambda p: p.expects("EQUAL") and not p.bracket and p.found != "NAME" and p.found != "",
        "this line computes something but gives it no name",
        "write `name = ...`; the name is also the key of its weights in the state_dict",
    ),
)
