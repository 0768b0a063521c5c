"""No formula of a divergence exists in two places: Kullback-Leibler's and Jensen-Shannon's are written in `generators` and nowhere else.

A search of the syntax trees, not a proof: it knows the shapes in which these two are usually written, and the planted cases below. What
it looks for in the values of the objectives themselves is in `test_instances`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "lossmith"
HOME = ("generators", "divergences")
"""Where the formulas live."""

READY_MADE = {"kl_div", "KLDivLoss", "kl_divergence", "xlogy", "rel_entr", "entr", "logaddexp", "jensenshannon"}
"""Functions of others that are a divergence, or the parts that one is put together from."""
LOGARITHMS = {"log", "log1p", "log2", "log_softmax", "logsigmoid", "logsumexp"}
EXPONENTIALS = {"exp", "expm1", "softmax", "sigmoid"}
PRODUCTS = {"mul", "mul_", "multiply", "matmul", "dot", "inner", "vecdot", "einsum"}
DIFFERENCES = {"sub", "sub_", "subtract"}
QUOTIENTS = {"div", "div_", "divide", "true_divide"}

PROBABILITIES = {"p", "q", "probs", "probabilities", "target", "soft", "teacher", "student"}

ALLOWED = {
    ("classification/bootstrap.py", "_bootstrap"): "the entropy of the prediction itself, whose gradient flows through both factors",
    ("fused/reference.py", "row_stats"): "the entropy of the row, one of the numbers that are asked for",
    ("fused/reference.py", "complement"): "-log p of the label by what all others have",
    ("fused/second.py", "_moved"): "how that entropy moves with the logits",
}
"""(file, function) -> why what looks like a divergence there is none."""


def called(node: ast.AST) -> str:
    """The last name of what a call calls."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""


def parts(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, but nothing that is inside an exponential: that is no logarithm any more."""
    if called(node) in EXPONENTIALS:
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from parts(child)


def operands(node: ast.Call) -> list[ast.expr]:
    """What a method or a function of torch is called on, without an equation of einsum."""
    of = [node.func.value] if isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name) else []
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        of = [] if node.func.value.id in ("torch", "np", "numpy", "F", "linalg", "math") else [node.func.value]
    if of and isinstance(of[0], ast.Attribute) and of[0].attr in ("linalg", "special", "functional"):
        of = []
    return [*of, *(one for one in node.args if not (isinstance(one, ast.Constant) and isinstance(one.value, str)))]


class Operators(ast.NodeTransformer):
    """Writes products, differences and quotients as operators, however they are spelt."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        operator = next(
            (op for names, op in ((PRODUCTS, ast.Mult), (DIFFERENCES, ast.Sub), (QUOTIENTS, ast.Div)) if called(node) in names), None
        )
        of = operands(node)
        return ast.copy_location(ast.BinOp(of[0], operator(), of[1]), node) if operator and len(of) == 2 else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return ast.copy_location(ast.BinOp(node.left, ast.Mult(), node.right), node) if isinstance(node.op, ast.MatMult) else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        was = ast.Name(node.target.id, ast.Load()) if isinstance(node.target, ast.Name) else node.target
        value = self.visit(ast.copy_location(ast.BinOp(was, node.op, node.value), node))
        return ast.copy_location(ast.Assign([node.target], value), node)


def dumped(node: ast.AST) -> set[str]:
    """Every expression in a node, to compare with others; but no constants, which are everywhere."""
    return {ast.unparse(part) for part in ast.walk(node) if isinstance(part, ast.expr) and not isinstance(part, ast.Constant)}


def terms(node: ast.AST) -> Iterator[ast.AST]:
    """What a sum or a difference is made of."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        yield from terms(node.left)
        yield from terms(node.right)
    else:
        yield node


def factors(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from factors(node.left)
        yield from factors(node.right)
    else:
        yield node


class Finder(ast.NodeVisitor):
    """Collects (line, function, what) of everything that looks like p (log p - log q)."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str, str]] = []
        self.function = ""
        self.known: dict[str, set[str]] = {"log": set(), "log ratio": set(), "ratio": set(), "probability": set()}
        """What names stand for."""

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before = self.function, {kind: set(names) for kind, names in self.known.items()}
        self.function = self.function or node.name
        self.generic_visit(node)
        self.function, self.known = before

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.found += [(node.lineno, self.function, f"import {one.name}") for one in node.names if one.name in READY_MADE]

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for name, value in zip(target.elts, node.value.elts, strict=False):
                    self.learn(name, value)
            else:
                self.learn(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if node.value is not None:
            self.learn(node.target, node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.generic_visit(node)
        self.learn(node.target, node.value)

    def learn(self, name: ast.AST, value: ast.AST) -> None:
        """A name given to a logarithm, to the difference of two, or to probabilities, stands for it further down."""
        if not isinstance(name, ast.Name):
            return
        kinds = {
            "log ratio": self.is_log_ratio(value),
            "log": self.is_log(value),
            "ratio": isinstance(value, ast.BinOp) and isinstance(value.op, ast.Div),
            "probability": called(value) in EXPONENTIALS - {"expm1"} or (isinstance(value, ast.Name) and self.is_probability(value)),
        }
        for kind in self.known:
            self.known[kind] -= {name.id}
        for kind in [kind for kind, holds in kinds.items() if holds][:1]:
            self.known[kind].add(name.id)

    def visit_Call(self, node: ast.Call) -> None:
        if called(node) in READY_MADE:
            self.found.append((node.lineno, self.function, f"{called(node)}(...)"))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Mult):
            for one, other in ((node.left, node.right), (node.right, node.left)):
                if self.is_probability(one) and self.is_log_ratio(other):
                    self.found.append((node.lineno, self.function, "p * (log p - log q)"))
                    break
                if self.is_probability(one) and self.same_row(one, other):
                    self.found.append((node.lineno, self.function, "exp(log p) * log p"))
                    break
                if dumped(one) & self.logarithms_of(other):
                    self.found.append((node.lineno, self.function, "p * log p"))
                    break
        if isinstance(node.op, ast.Sub):
            self.look_at_difference(node)
        self.generic_visit(node)

    def look_at_difference(self, node: ast.BinOp) -> None:
        """p log p - p log q, and e^r - 1 - r, whose mean is a divergence too."""
        left, right = ([list(factors(part)) for part in terms(side)] for side in (node.left, node.right))
        for one in left:
            for other in right:
                shared = {ast.unparse(part) for part in one} & {ast.unparse(part) for part in other}
                if len(one) > 1 < len(other) and shared and all(any(map(self.is_log, part)) for part in (one, other)):
                    self.found.append((node.lineno, self.function, "p * log p - p * log q"))
        alone = {ast.unparse(part) for part in terms(node)}
        for part in terms(node):
            if isinstance(part, ast.Call) and called(part) in ("exp", "expm1") and alone & set(map(ast.unparse, operands(part))):
                self.found.append((node.lineno, self.function, "e^r - 1 - r"))

    @staticmethod
    def logarithms_of(node: ast.AST) -> set[str]:
        """Everything that a logarithm is taken of."""
        taken = [part for part in parts(node) if isinstance(part, ast.Call) and called(part) in ("log", "log2", "log10")]
        return {ast.unparse(of) for part in taken for of in operands(part) if not isinstance(of, ast.Constant)}

    def is_log(self, node: ast.AST) -> bool:
        for part in parts(node):
            name = part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else ""
            if called(part) in LOGARITHMS or name.startswith("log_") or name in self.known["log"]:
                return True
        return False

    def is_log_ratio(self, node: ast.AST) -> bool:
        for part in parts(node):
            if (
                isinstance(part, ast.BinOp)
                and isinstance(part.op, (ast.Sub, ast.Add))
                and self.is_log(part.left)
                and self.is_log(part.right)
            ):
                return True
            if called(part) in LOGARITHMS and any(self.is_ratio(inner) for inner in ast.walk(part)):
                return True
            if isinstance(part, ast.Name) and part.id in self.known["log ratio"]:
                return True
        return False

    def is_ratio(self, node: ast.AST) -> bool:
        return (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)) or (
            isinstance(node, ast.Name) and node.id in self.known["ratio"]
        )

    def is_probability(self, node: ast.AST) -> bool:
        """Something exponentiated or normalised, or a name as probabilities have."""
        for part in ast.walk(node):
            if called(part) in EXPONENTIALS - {"expm1"}:
                return True
            name = part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else ""
            if name in PROBABILITIES or name.startswith(("p_", "q_", "probs_")) or name.endswith(("_probs", "_probabilities")):
                return True
            if name in self.known["probability"]:
                return True
        return False

    def same_row(self, one: ast.AST, other: ast.AST) -> bool:
        """Whether what is exponentiated on one side is there as it is on the other."""
        powers = {name.id for part in ast.walk(one) if called(part) == "exp" for name in ast.walk(part) if isinstance(name, ast.Name)}
        plain = {part.id for part in parts(other) if isinstance(part, ast.Name) and part.id.startswith("log_")}
        return bool(powers & plain)


def findings(code: str) -> list[tuple[int, str, str]]:
    finder = Finder()
    finder.visit(ast.fix_missing_locations(Operators().visit(ast.parse(code))))
    return finder.found


def test_divergences_are_written_in_one_place() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name.split("/")[0] in HOME:
            continue
        found += [f"{name}:{line}: {what}" for line, function, what in findings(path.read_text()) if (name, function) not in ALLOWED]
    assert found == [], "take it from lossmith.divergences, or say in ALLOWED why it is no divergence"


def test_what_is_allowed_is_there() -> None:
    """An exception whose reason has gone would let a later divergence through."""
    for name, function in ALLOWED:
        assert function in [found for _, found, _ in findings((SOURCE / name).read_text())], f"nothing to allow in {name}, {function}"


@pytest.mark.parametrize(
    "code",
    [
        "loss = F.kl_div(log_p, log_q, reduction='none', log_target=True)",
        "loss = torch.nn.KLDivLoss(reduction='batchmean')(a, b)",
        "loss = torch.distributions.kl_divergence(a, b)",
        "loss = (p * (p.log() - q.log())).sum(-1)",
        "loss = (p * (p / q).log()).sum(-1)",
        "loss = (teacher * torch.log(teacher / student)).sum(-1)",
        "loss = (log_p.exp() * (log_p - log_q)).sum(-1)",
        "loss = torch.where(keep, torch.exp(log_p) * torch.where(keep, log_p - log_q, 0), 0).sum(-1)",
        "loss = (F.softmax(t / T, -1) * (F.log_softmax(t / T, -1) - F.log_softmax(z / T, -1))).sum(-1)",
        "ratio = log_p - log_q\nloss = (ratio * log_p.exp()).sum(-1)",
        "a, b = t.log_softmax(-1), z.log_softmax(-1)\nloss = (a.exp() * (a - b)).sum(-1)",
        "loss = torch.xlogy(p, p / q).sum(-1)",
        "m = torch.logaddexp(log_p, log_q) - math.log(2)",
        "m = (p + q) / 2\nloss = 0.5 * (p * (p / m).log()).sum(-1) + 0.5 * (q * (q / m).log()).sum(-1)",
        "def f(log_p, classes):\n    return (log_p.exp() * (log_p + math.log(classes))).sum(-1)",
        "entropy = -(log_p.exp() * log_p).sum(-1)",
        "def f(self):\n    log_c = math.log(3)\n    return (torch.exp(log_p) * torch.where(log_p.isneginf(), 0, log_p + log_c)).sum(-1)",
        "from torch.nn.functional import kl_div as distance\nloss = distance(a, b)",
        "(p.log() - q.log()) * p",
        "loss = (a * (a.log() - b.log())).sum(-1)",
        "loss = (self.p * (self.p.log() - self.q.log())).sum(-1)",
        "loss = (teacher_probs * (log_t - log_s)).sum(-1)",
        "a, b = F.softmax(t, -1), F.softmax(z, -1)\nloss = (a * (torch.log(a) - torch.log(b))).sum(-1)",
        "pt = t.softmax(-1)\nlt, ls = t.log_softmax(-1), z.log_softmax(-1)\nloss = (pt * (lt - ls)).sum(-1)",
        "loss = torch.mul(p, torch.log(p) - torch.log(q)).sum(-1)",
        "loss = p.mul(p.log().sub(q.log())).sum(-1)",
        "loss = (p * torch.log(torch.div(p, q))).sum(-1)",
        "loss = (a * p.div(q).log()).sum() + (p * p.div(q).log()).sum()",
        "loss = torch.einsum('nc,nc->n', p, log_p - log_q)",
        "loss = torch.linalg.vecdot(p, log_p - log_q)",
        "loss = p @ (log_p - log_q)",
        "loss = (p * log_p - p * log_q).sum(-1)",
        "loss = (p * p.log()).sum(-1) - (p * q.log()).sum(-1)",
        "d = p.log()\nd -= q.log()\nloss = (p * d).sum(-1)",
        "loss = p\nloss *= p.log() - q.log()",
        "ratio: Tensor = p.log() - q.log()\nloss = p * ratio",
        "(ratio := p.log() - q.log())\nloss = p * ratio",
        "ratio = p / q\nloss = (p * ratio.log()).sum(-1)",
        "ratio = p / q\nloss = (q * ratio * torch.log(ratio)).sum(-1)",
        "ratio = log_q - log_p\nloss = ratio.exp() - 1 - ratio",
        "ratio = log_q - log_p\nloss = torch.expm1(ratio) - ratio",
        "loss = -torch.special.entr(p).sum(-1)",
        "async def f(p, q):\n    return p * (p / q).log()",
    ],
)
def test_a_divergence_written_by_hand_is_found(code: str) -> None:
    assert findings(code)


@pytest.mark.parametrize(
    "code",
    [
        "loss = -log_p",
        "loss = -(1 - log_p.exp()) ** gamma * log_q",
        "loss = temperature * (torch.logsumexp(z / temperature, -1) - math.log(c)) - z_y",
        "loss = divergence(log_p, log_q, 'kl', log=True)",
        "reach = 0.5 * (high - low)",
        "value = weight * torch.where(near, 1.0, torch.expm1(exponent) / divisor)",
        "loss = F.softplus(z) - t * z",
        "loss = (t * -F.logsigmoid(z)).sum()",
        "share = torch.exp(r - r.logsumexp(0))\nloss = (share * losses).sum()",
    ],
)
def test_what_is_no_divergence_is_not(code: str) -> None:
    assert not findings(code)
