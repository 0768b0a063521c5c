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

READY_MADE = {"kl_div", "KLDivLoss", "kl_divergence", "xlogy", "rel_entr", "logaddexp", "jensenshannon"}
"""Functions of others that are a divergence, or the parts that one is put together from."""
LOGARITHMS = {"log", "log1p", "log2", "log_softmax", "logsigmoid", "logsumexp"}
EXPONENTIALS = {"exp", "expm1", "softmax", "sigmoid"}

ALLOWED = {
    ("classification/bootstrap.py", "_bootstrap"): "the entropy of the prediction itself, whose gradient flows through both factors",
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


class Finder(ast.NodeVisitor):
    """Collects (line, function, what) of everything that looks like p (log p - log q)."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str, str]] = []
        self.function = ""
        self.logs: set[str] = set()
        self.ratios: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = self.function, set(self.logs), set(self.ratios)
        self.function = self.function or node.name
        self.generic_visit(node)
        self.function, self.logs, self.ratios = before

    def visit_Assign(self, node: ast.Assign) -> None:
        """A name given to a logarithm, or to the difference of two, stands for it further down."""
        self.generic_visit(node)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for name, value in pairs:
                if not isinstance(name, ast.Name):
                    continue
                self.ratios -= {name.id}
                self.logs -= {name.id}
                if self.is_log_ratio(value):
                    self.ratios.add(name.id)
                elif self.is_log(value):
                    self.logs.add(name.id)

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
        self.generic_visit(node)

    def is_log(self, node: ast.AST) -> bool:
        for part in parts(node):
            name = part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else ""
            if called(part) in LOGARITHMS or name.startswith("log_") or name in self.logs:
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
            if called(part) in LOGARITHMS and any(
                isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Div) for inner in ast.walk(part)
            ):
                return True
            if isinstance(part, ast.Name) and part.id in self.ratios:
                return True
        return False

    def is_probability(self, node: ast.AST) -> bool:
        """Something exponentiated or normalised, or a name as probabilities have."""
        for part in ast.walk(node):
            if called(part) in EXPONENTIALS - {"expm1"}:
                return True
            if isinstance(part, ast.Name) and part.id in ("p", "q", "probs", "probabilities", "target", "soft", "teacher", "student"):
                return True
        return False

    def same_row(self, one: ast.AST, other: ast.AST) -> bool:
        """Whether what is exponentiated on one side is there as it is on the other."""
        powers = {name.id for part in ast.walk(one) if called(part) == "exp" for name in ast.walk(part) if isinstance(name, ast.Name)}
        plain = {part.id for part in parts(other) if isinstance(part, ast.Name) and part.id.startswith("log_")}
        return bool(powers & plain)


def findings(code: str) -> list[tuple[int, str, str]]:
    finder = Finder()
    finder.visit(ast.parse(code))
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
    ],
)
def test_what_is_no_divergence_is_not(code: str) -> None:
    assert not findings(code)
