"""Mutants of a Python source: the same program but for one operator, constant, return value or statement."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Mutant", "mutants_of", "mutated"]

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


@dataclass(frozen=True)
class Mutant:
    """One change. lines: of the expression, of its statement, of the function around it, if any."""

    number: int
    change: str
    lines: tuple[int, int]
    statement: int
    function: tuple[int, int] | None


def mutants_of(source: str) -> list[Mutant]:
    """All mutants of a file, in the order of its text."""
    return [Mutant(number, *change) for number, change in enumerate(_Mutator(source).changes)]


def mutated(source: str, mutant: Mutant) -> str:
    """The file's text with that change."""
    return ast.unparse(ast.fix_missing_locations(_Mutator(source, mutant.number).tree))


class _Mutator(ast.NodeTransformer):
    """Walks a tree and makes its `chosen`-th change; lists all of them in `changes`."""

    def __init__(self, source: str, chosen: int = -1) -> None:
        self.chosen = chosen
        self.changes: list[tuple[str, tuple[int, int], int, tuple[int, int] | None]] = []
        self.statements: list[ast.stmt] = []
        self.functions: list[ast.stmt] = []
        self.tree = self.visit(ast.parse(source))

    def visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, ast.stmt):
            return super().visit(node)  # type: ignore[no-any-return]
        inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        self.statements.append(node)
        self.functions += [node] * inner
        try:
            return super().visit(node)  # type: ignore[no-any-return]
        finally:
            self.statements.pop()
            self.functions[len(self.functions) - inner :] = []

    def offer(self, node: ast.expr | ast.stmt, change: str) -> bool:
        """Whether this is the change to make."""
        statement = self.statements[-1]
        function = (self.functions[-1].lineno, self.functions[-1].end_lineno or 0) if self.functions else None
        lines = node.lineno, node.end_lineno or node.lineno
        self.changes.append((change, lines, statement.lineno, function))
        return len(self.changes) - 1 == self.chosen

    def walk(self, node: ast.AST, but: Sequence[str] = ()) -> ast.AST:
        """Visit what `node` holds, without its fields `but`."""
        kept = {name: getattr(node, name) for name in but}
        for name in but:
            setattr(node, name, None)
        self.generic_visit(node)
        for name, value in kept.items():
            setattr(node, name, value)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self.walk(node, ("returns", "decorator_list"))

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self.walk(node, ("decorator_list",))

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return self.walk(node, ("annotation",))

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        alias = isinstance(node.value, ast.Subscript | ast.BinOp) and not self.functions and all(map(_is_class, names))
        if "__all__" in names or (names and alias):
            return node
        # Without a variable the rest does not run: that says nothing of the tests.
        if not names and not isinstance(node.targets[0], ast.Tuple) and self.offer(node, "statement deleted"):
            return ast.Pass()
        return self.walk(node, ("targets",))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        return ast.Pass() if self.offer(node, "statement deleted") else self.walk(node, ("op",))

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant):
            return node
        return ast.Pass() if self.offer(node, "statement deleted") else self.walk(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Pass() if self.offer(node, "raise deleted") else node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        given = node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None)
        return ast.Return(ast.Constant(None)) if given and self.offer(node, "returns None") else self.walk(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        self.walk(node)
        self.negate(node)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.walk(node)
        self.negate(node)
        return node

    def negate(self, node: ast.If | ast.IfExp) -> None:
        plain = not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp)
        if plain and self.offer(node.test, "condition negated"):
            node.test = ast.UnaryOp(ast.Not(), node.test)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        for place, operator in enumerate(node.ops):
            other = _COMPARISONS[type(operator)]
            if self.offer(node, f"{type(operator).__name__} -> {other.__name__}"):
                node.ops[place] = other()
        return self.walk(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        if self.offer(node, f"{type(node.op).__name__} -> {other.__name__}"):
            node.op = other()
        return self.walk(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        other = _OPERATORS.get(type(node.op))
        if other is not None and self.offer(node, f"{type(node.op).__name__} -> {other.__name__}"):
            node.op = other()
        return self.walk(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.walk(node)
        dropped = isinstance(node.op, ast.Not | ast.USub) and self.offer(node, f"{type(node.op).__name__} dropped")
        return node.operand if dropped else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        other: str | float | None = None
        if isinstance(node.value, bool):
            other = not node.value
        elif isinstance(node.value, int | float):
            other = node.value + 1
        elif isinstance(node.value, str) and node.value.isidentifier():
            other = f"{node.value}_"
        if other is not None and self.offer(node, f"{node.value!r} -> {other!r}"):
            return ast.Constant(other)
        return node


def _is_class(name: str) -> bool:
    return name.strip("_")[:1].isupper()
