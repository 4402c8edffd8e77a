"""Finds private names of libraries in a module, from its syntax tree.

`self._x` must be a member of the class or of its bases, as far as these are ours. `other._x` is allowed only if `other`
is known to be of a class in the same module: it was created there, or is an annotated parameter or attribute.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

ATTRIBUTE_FUNCTIONS = frozenset({"getattr", "setattr", "hasattr", "delattr", "attrgetter", "methodcaller"})
# Public, in spite of their names: members of named tuples, `os._exit`, and what asyncio documents for other loops.
PUBLIC_NAMES = frozenset({"_asdict", "_fields", "_make", "_replace", "_exit", "_leave_task", "_unregister_task"})


class OwnClass:
    """A class of ours: its bases, the members that it defines, and the types of its annotated attributes."""

    def __init__(self, node: ast.ClassDef) -> None:
        self.bases = {last_part(base) for base in node.bases}
        self.members: set[str] = set()
        self.types: dict[str, set[str]] = {}
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                self.members.add(statement.name)
                self._add_attributes(statement)
            for target in targets(statement):
                self.members.add(last_part(target))
            if isinstance(statement, ast.AnnAssign):
                self.types[last_part(statement.target)] = words(statement.annotation)

    def _add_attributes(self, method: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Add the attributes that a method sets on `self`."""
        parameters = parameter_types(method)
        for node in ast.walk(method):
            for target in targets(node):
                if not isinstance(target, ast.Attribute) or not is_self(target.value):
                    continue
                self.members.add(target.attr)
                if isinstance(node, ast.AnnAssign):
                    self.types[target.attr] = words(node.annotation)
                elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in parameters:
                    self.types[target.attr] = parameters[node.value.id]


class PrivateNames(ast.NodeVisitor):
    """Collects the private names of libraries in one module, with the numbers of their lines."""

    def __init__(self, tree: ast.Module, classes: dict[str, list[OwnClass]], packages: Iterable[str]) -> None:
        self.found: list[tuple[int, str]] = []
        self._classes = classes  # of all modules
        self._local_classes = own_classes([tree])
        self._packages = frozenset(packages)
        self._enclosing: list[str] = []
        self._variables: list[dict[str, set[str]]] = []  # of the enclosing functions, with the names in their types
        self.visit(tree)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._enclosing.append(node.name)
        self.generic_visit(node)
        self._enclosing.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._variables.append({**parameter_types(node), **created_types(node)})
        self.generic_visit(node)
        self._variables.pop()

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._check(node, node.value, node.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if last_part(node.func) in ATTRIBUTE_FUNCTIONS:
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    self._check(node, node.args[0], argument.value)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check_import(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if not node.level and node.module:
            for alias in node.names:
                self._check_import(node, f"{node.module}.{alias.name}")

    def _check_import(self, node: ast.stmt, name: str) -> None:
        package, *parts = name.split(".")
        if package not in self._packages and any(map(is_private, (package, *parts))):
            self.found.append((node.lineno, ast.unparse(node)))

    def _check(self, node: ast.expr, base: ast.expr, name: str) -> None:
        if not is_private(name):
            return
        if not any(name in each.members for each in self._classes_of(base)):
            self.found.append((node.lineno, ast.unparse(node)))

    def _classes_of(self, base: ast.expr) -> list[OwnClass]:
        """Return the classes of ours that an object may belong to, as far as this module shows it."""
        enclosing = self._with_bases(self._enclosing[-1], set()) if self._enclosing else []
        if is_self(base):
            return enclosing
        types: set[str] = set()
        if isinstance(base, ast.Name):
            types = next((variables[base.id] for variables in self._variables[::-1] if base.id in variables), types)
        elif isinstance(base, ast.Attribute) and is_self(base.value):
            types = {word for each in enclosing for word in each.types.get(base.attr, ())}
        local = [each for word in types for each in self._local_classes.get(word, [])]
        return local + (enclosing if "cls" in types else [])

    def _with_bases(self, name: str, seen: set[str]) -> list[OwnClass]:
        """Return the classes of ours with a name, and their bases."""
        if name in seen:
            return []
        seen.add(name)
        classes = self._classes.get(name, [])
        return classes + [base for each in classes for bases in each.bases for base in self._with_bases(bases, seen)]


def own_classes(trees: Iterable[ast.AST]) -> dict[str, list[OwnClass]]:
    """Return the classes in some modules, by their names."""
    found: dict[str, list[OwnClass]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(OwnClass(node))
    return found


def is_private(name: str) -> bool:
    """Return whether a name is private by convention."""
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC_NAMES


def is_self(node: ast.expr) -> bool:
    """Return whether an expression is `self`, `cls` or `super()`."""
    return last_part(node.func if isinstance(node, ast.Call) else node) in {"self", "cls", "super"}


def last_part(node: ast.expr) -> str:
    """Return the last part of a dotted name, such as `C` of `a.b.C[T]`, or an empty string."""
    node = node.value if isinstance(node, ast.Subscript) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def targets(node: ast.AST) -> list[ast.expr]:
    """Return what an assignment assigns to."""
    if isinstance(node, ast.Assign):
        return [
            part
            for target in node.targets
            for part in (target.elts if isinstance(target, ast.Tuple | ast.List) else [target])
        ]
    return [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) else []


def parameter_types(node: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, set[str]]:
    """Return the names in the annotation of each parameter."""
    parameters = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return {each.arg: words(each.annotation) for each in parameters}


def created_types(node: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, set[str]]:
    """Return the variables that are assigned as in `x = C()`, with the name of what is called."""
    return {
        last_part(target): {last_part(inner.value.func)}
        for inner in ast.walk(node)
        if isinstance(inner, ast.Assign) and isinstance(inner.value, ast.Call)
        for target in targets(inner)
    }


def words(annotation: ast.expr | None) -> set[str]:
    """Return the names in an annotation."""
    return set() if annotation is None else set(re.findall(r"\w+", ast.unparse(annotation)))
