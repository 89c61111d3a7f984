r"""Pairs (reference answer, response) of the shapes that data sets and math-verify's own issues have, by subject."""

from __future__ import annotations

__all__ = ["PAIRS", "TINY"]

_NUMBERS = ["5", "-3", "0", "0.5", r"\frac{1}{2}", r"\frac12", "1/2", "50\\%", "1.5", r"1\frac{1}{2}", "3/2", "1,000"]
_NUMBERS += [
    "1000",
    "10^3",
    r"2\sqrt{2}",
    r"\sqrt{8}",
    r"\pi",
    "3.14159",
    r"\frac{\pi}{2}",
    r"\infty",
    "2^{10}",
    "1024",
]
TINY = ["10^{-20}", r"2\cdot 10^{-20}", r"\frac{1}{10^{20}}", "0.0000001", "0.0000002", r"\frac{1}{2^{99}}", "0"]
TINY += [r"\frac{1}{2^{98}}", r"\frac{1}{2004!}", r"\frac{1}{2006!}", "0.000033", r"\frac{1}{30000}", "0.0000333333"]
_SETS = [
    r"\{1,2\}",
    r"\{2,1\}",
    "1,2",
    "2,1",
    "(1,2)",
    "[1,2]",
    "(2,1)",
    r"\{1,2,3\}",
    r"x\in\{1,2\}",
    "1 and 2",
    "[1,2)",
]
_INTERVALS = ["(1,2)", "(1,2]", "[1,2]", r"(-\infty,3)", "x<3", "3>x", r"x\in(-\infty,3)", "1<x<2", r"(1,2)\cup(3,4)"]
_INTERVALS += [r"(3,4)\cup(1,2)", r"x\ge 3", r"[3,\infty)"]
_EQUATIONS = ["x=5", "5", "y=5", "x=2+3", "x+y=5", "y=5-x", "y=2x+1", "2x-y+1=0", "2x+1", "f(x)=2x+1", "x=1,x=2"]
_EQUATIONS += ["x=1 or x=2", "1,2"]
_TEXT = [r"\text{yes}", "yes", r"\text{Yes}", "no", r"\text{even}", "even", r"\text{(A)}", "A", "(A)", r"\textbf{A}"]
_TEXT += ["Monday", r"\text{Monday}"]
_UNITS = ["5", r"5\text{ cm}", r"5\,\mathrm{cm}", "5 cm", r"5^\circ", r"5\text{ degrees}", r"\$5", "5 dollars", r"5\%"]
_UNITS += ["0.05", "5.00", r"5\text{ cm}^2", "6"]
_EXPRESSIONS = [
    "x^2+2x+1",
    "(x+1)^2",
    r"(1+x)^2",
    "x^2+1",
    r"\frac{x^2-1}{x-1}",
    "x+1",
    "10^{-20}x",
    r"2\cdot 10^{-20}x",
]
_EXPRESSIONS += [r"\sin^2 x+\cos^2 x", "1", r"e^{i\pi}", "-1", "2i", "i+i"]
_MATRICES = [
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
    r"\begin{bmatrix}1&2\\3&4\end{bmatrix}",
    r"\begin{pmatrix}1&2\\3&5\end{pmatrix}",
    r"\begin{pmatrix}1\2\end{pmatrix}",
    r"\begin{pmatrix}1\\2\end{pmatrix}",
    r"\begin{pmatrix}1\-2\end{pmatrix}",
    r"\begin{pmatrix}1\\-2\end{pmatrix}",
    "(1,2)",
]
_SENTENCES = [
    ("5", "the answer is 5"),
    ("5", "the answer is $5$."),
    ("5", "so 3 + 2 = 5"),
    ("5", r"it is \boxed{4}, no: \boxed{5}"),
    ("5", r"it is \boxed{5}, no: \boxed{4}"),
    ("5", r"\boxed{5} and \boxed{6}"),
    ("4", r"First \boxed{3}. Then $4$."),
    ("5", r"\boxed{5"),
    ("5", r"\boxed{}"),
    ("5", ""),
    ("5", "no idea"),
    ("", r"\boxed{5}"),
    ("$5$", r"\boxed{5}"),
    ("$$5$$", r"\[5\]"),
    (r"\boxed{5}", "$5$"),
    ("5", r"\fbox{5}"),
    ("5", "#### 5"),
    ("72", "so she sold 72 clips. #### 72"),
    ("5", r"\boxed{\boxed{5}}"),
    ("5", r"\boxed{\text{The answer is } 5}"),
    ("1,2", r"$x=1$ or $x=2$, so \boxed{1}, \boxed{2}"),
    (r"\frac{1}{2}", "one half"),
    ("5", r"\boxed{5.}"),
    ("12", r"\boxed{1 2}"),
    ("5", "answer: 5 apples and 6 pears"),
]

PAIRS: list[tuple[str, str]] = []  # (reference answer, response)
for _kind in (_NUMBERS, TINY, _SETS, _INTERVALS, _EQUATIONS, _TEXT, _UNITS, _EXPRESSIONS, _MATRICES):
    for _place, _answer in enumerate(_kind):
        for _step in (0, 1, 2):  # with itself and with two others of its kind
            _other = _kind[(_place + _step) % len(_kind)]
            PAIRS.append((_answer, rf"\boxed{{{_other}}}"))
PAIRS += _SENTENCES
PAIRS = list(dict.fromkeys(PAIRS))
