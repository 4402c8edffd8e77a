"""The shape of the code, read from its syntax trees: imports, module names, sizes."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from dev.environment import ROOT
from tests.unit.private_names import PrivateNames, own_classes

PACKAGES = ("headway", "services", "bench", "dev")
SERVICES = ("submitter", "worker", "notifier")
UNDRAWN = frozenset(
    {"__main__", "app", "metrics", "settings", "contracts", "timestamp"}
)  # used by, or using, most others
MODULE_LINES = 300
FUNCTION_LINES = 40
VAGUE = frozenset({"utils", "util", "common", "core", "helpers", "helper", "manager", "managers", "misc"})

# The only modules that may use private parts of a library, and the library.
ADAPTERS = {"services/runtime/aiohttp_adapter.py": "aiohttp"}

# "path" or "path:function" -> the lines that it may have, and why.
LONGER: dict[str, tuple[int, str]] = {}


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a module, parsed once for all tests."""
    return ast.parse(path.read_text())


def modules(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield each module's path and dotted name."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            relative = path.relative_to(root).with_suffix("")
            if "node_modules" not in relative.parts:
                yield path, ".".join(part for part in relative.parts if part != "__init__")


def imports(path: Path, name: str) -> set[str]:
    """Return the dotted names that a module imports anywhere in it, relative ones resolved."""
    found: set[str] = set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def forbidden_imports(root: Path) -> list[str]:
    """Return every import of a sibling service, and of a package that the importing package must not know."""
    wrong = []
    for path, name in modules(root):
        parts = name.split(".")
        siblings = [f"services.{other}" for other in SERVICES if other != parts[1]] if name.count(".") else []
        banned = {
            "headway": ["services", "dev", "bench"],
            "services": ["dev", "bench", *siblings],
            "dev": ["bench"],
            "bench": ["services"],
        }[parts[0]]
        wrong += [
            f"{name} imports {used}"
            for used in sorted(imports(path, name))
            if any(used == one or used.startswith(f"{one}.") for one in banned)
        ]
    return wrong


def absolute_imports(root: Path) -> list[str]:
    """Return every module of `services` that imports another one by its absolute name."""
    return [
        name
        for path, name in modules(root)
        if name.startswith("services") and re.search(r"^\s*(from|import) services\b", path.read_text(), re.MULTILINE)
    ]


@cache
def module_graph(root: Path) -> dict[str, set[str]]:
    """Return the modules that each module of `headway` and `services` imports."""
    named = {name: path for path, name in modules(root) if name.split(".")[0] in ("headway", "services")}
    graph = {}
    for name, path in named.items():
        used = {one if one in named else one.rpartition(".")[0] for one in imports(path, name)}
        graph[name] = used & named.keys() - {name}
    return graph


def edges_within(graph: dict[str, set[str]], package: str) -> set[tuple[str, str]]:
    """Return the imports between the parts of a package: its modules and its packages, apart from UNDRAWN."""

    def part(name: str) -> str | None:
        if not name.startswith(f"{package}."):
            return None
        child = name.removeprefix(f"{package}.").split(".")[0]
        return None if child in UNDRAWN else child

    pairs = {(part(name), part(used)) for name, all_used in graph.items() for used in all_used}
    return {(one, other) for one, other in pairs if one and other and one != other}


def drawings() -> dict[str, set[tuple[str, str]]]:
    """Return the arrows of the flowcharts in docs/architecture.md, by the package that each one shows."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    found = re.findall(r"```mermaid\nflowchart \w+\n +%% (\S+)\n(.*?)```", text, re.DOTALL)
    return {
        package: {
            (one, other.strip())
            for one, others in re.findall(r"^ +(\w+) --> (.+)$", body, re.MULTILINE)
            for other in others.split("&")
        }
        for package, body in found
    }


def bad_names(root: Path) -> list[str]:
    """Name every module and package that is called after nothing, or after something in the standard library."""
    last = {name.rpartition(".")[2] for _, name in modules(root)} - {"__main__"}
    return sorted(last & (VAGUE | sys.stdlib_module_names))


def too_long(root: Path, longer: dict[str, tuple[int, str]]) -> list[str]:
    """Name every module and function over its number of lines."""
    sizes: dict[str, tuple[int, int]] = {}
    for path, _ in modules(root):
        text, where = path.read_text(), str(path.relative_to(root))
        sizes[where] = (len(text.splitlines()), MODULE_LINES)
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                place = f"{where}:{node.name}"
                sizes[place] = max((lines, FUNCTION_LINES), sizes.get(place, (0, FUNCTION_LINES)))
    return [
        f"{place} has {lines} lines"
        for place, (lines, most) in sizes.items()
        if lines > longer.get(place, (most, ""))[0]
    ]


def private_names(root: Path) -> dict[str, list[str]]:
    """Return each module that uses private names of libraries, and these names with the numbers of their lines."""
    trees = {str(path.relative_to(root)): parse(path) for path, _ in modules(root)}
    classes = own_classes(trees.values())
    found = {path: PrivateNames(tree, classes, PACKAGES).found for path, tree in trees.items()}
    return {path: [f"{line}: {name}" for line, name in names] for path, names in found.items() if names}


def test_no_service_imports_a_sibling_and_headway_imports_no_service() -> None:
    """What a service may import are its own modules, the shared ones beside it, and `headway`."""
    assert forbidden_imports(ROOT) == []


def test_services_import_relatively() -> None:
    """No module of `services` spells the name of its package, so that another package can contain it."""
    assert absolute_imports(ROOT) == []


def test_imports_have_no_cycle() -> None:
    """Each module can be read after the ones that it imports."""
    TopologicalSorter(module_graph(ROOT)).prepare()


@pytest.mark.parametrize("package", ["headway", "services", *(f"services.{name}" for name in SERVICES)])
def test_the_drawing_of_the_modules_is_true(package: str) -> None:
    """The flowcharts in docs/architecture.md have an arrow for each import between the parts of a package."""
    assert drawings()[package] == edges_within(module_graph(ROOT), package)


def test_the_notifier_imports_downwards() -> None:
    """From transports and ingest over watching and records to the Redis client, never upwards."""
    order = ("transports", "ingest", "watching", "records", "redis_client")
    edges = edges_within(module_graph(ROOT), "services.notifier")
    assert edges & {("transports", "ingest"), ("ingest", "transports")} == set()
    layered = [(one, other) for one, other in edges if {one, other} <= set(order)]
    assert [(one, other) for one, other in layered if order.index(one) > order.index(other)] == []


def test_a_cycle_of_imports_is_found(tmp_path: Path) -> None:
    """Two modules that import each other are reported, relative imports included."""
    for name, text in (("a", "from . import b\n"), ("b", "from .a import x\n"), ("__init__", "")):
        (tmp_path / "services").mkdir(exist_ok=True)
        (tmp_path / "services" / f"{name}.py").write_text(text)
    with pytest.raises(CycleError):
        TopologicalSorter(module_graph(tmp_path)).prepare()


def test_modules_are_named_after_what_they_are_for() -> None:
    """No module is called `utils` or the like, or shadows one of the standard library."""
    assert bad_names(ROOT) == []


def test_modules_and_functions_stay_short() -> None:
    """A module has at most 300 lines and a function at most 40, exceptions named above."""
    assert too_long(ROOT, LONGER) == []


def test_exceptions_to_the_length_still_exist() -> None:
    """An exception that nothing needs any more is removed."""
    assert [place for place in LONGER if not any(line.startswith(f"{place} ") for line in too_long(ROOT, {}))] == []


def test_only_adapters_use_private_parts_of_libraries() -> None:
    """Other modules keep to what a library documents; each adapter has a contract test, and says what it uses."""
    found = private_names(ROOT)
    assert {path: names for path, names in found.items() if path not in ADAPTERS} == {}
    for adapter in ADAPTERS:
        path = Path(adapter)
        assert (ROOT / "tests/unit" / path.parent / f"test_{path.name}").exists()
        docstring = ast.get_docstring(parse(ROOT / adapter)) or ""
        for name in found[adapter]:
            assert name.rpartition(".")[2] in docstring


PRIVATE_USES = {
    "an attribute": "def handle(request: web.Request): request._payload_writer",
    "an attribute of an attribute": "def handle(request: web.Request): request.protocol._message_tail",
    "an attribute that a class of ours has, too": """
        class Ours:
            def __init__(self) -> None:
                self._messages = []
        def handle(request: web.Request): request._messages
    """,
    "an attribute of a new object": "def handle(): session = aiohttp.ClientSession(); session._connector",
    "an attribute of a result": "def handle(): aiohttp.ClientSession()._connector",
    "an assignment": "def handle(request): request._task = None",
    "an inherited attribute": """
        class Response(web.StreamResponse):
            async def prepare(self, request): self._req = self._headers
    """,
    "an inherited method": """
        class Response(web.StreamResponse):
            async def prepare(self, request): await super()._start(request)
    """,
    "an attribute of an attribute of ours": """
        class Ours:
            def __init__(self, session: aiohttp.ClientSession) -> None:
                self._session = session
            def close(self): self._session._connector.close()
    """,
    "getattr": "def handle(request): getattr(request, '_task', None)",
    "setattr": "def handle(request): setattr(request, '_task', None)",
    "attrgetter": "task = operator.attrgetter('_task')",
    "a private module": "import aiohttp._http_parser",
    "a module of a private package": "from aiohttp._websocket.reader import WebSocketReader",
    "a private name": "async def handle(): from aiohttp.web_protocol import _ErrInfo",
}
ALLOWED_USES = """
    from services._own import _name
    from . import _sibling
    from __future__ import annotations

    class Base:
        _limit: ClassVar[int] = 1
        def _close(self) -> None: ...

    class Ours(Base, Generic[T]):
        def __init__(self, other: Ours | None) -> None:
            self._other = other
            self._count, self._limit = 0, self._limit
            getattr(self, "_count")
        @classmethod
        def create(cls) -> Ours:
            ours = cls(None)
            ours._count += 1
            super()._close()
            return ours
        def merge(self, other: Ours) -> None:
            self._other._count = other._count + other.__class__.__len__(other)
            self.entry._replace(count=self._count)
"""


@pytest.mark.parametrize("code", PRIVATE_USES.values(), ids=PRIVATE_USES)
def test_private_parts_of_libraries_are_found(tmp_path: Path, code: str) -> None:
    """They are found in every package of ours, however they are reached."""
    for package in PACKAGES:
        (tmp_path / package / "part").mkdir(parents=True)
        (tmp_path / package / "part" / "module.py").write_text(textwrap.dedent(code))
    assert private_names(tmp_path).keys() == {f"{package}/part/module.py" for package in PACKAGES}


def test_private_parts_of_our_classes_are_allowed(tmp_path: Path) -> None:
    """A class uses its own private members, those of its bases, and those of other objects of its module."""
    (tmp_path / "headway").mkdir()
    (tmp_path / "headway" / "ours.py").write_text(textwrap.dedent(ALLOWED_USES))
    assert private_names(tmp_path) == {}


def test_the_whole_tree_is_looked_at() -> None:
    """The checks see the packages that they are about."""
    names = {name for _, name in modules(ROOT)}
    assert {
        "headway.contracts",
        "services.runtime.service",
        "services.notifier.transports.websocket.handler",
        "dev.up",
    } <= names


@pytest.fixture
def bad_tree(tmp_path: Path) -> Path:
    """Make a tree that breaks each rule once."""
    body = "\n".join("    x = 1" for _ in range(FUNCTION_LINES))
    files = {
        "headway/__init__.py": "from services import runtime\n",
        "headway/utils.py": "",
        "services/__init__.py": "",
        "services/runtime.py": "",
        "services/queue.py": f"async def long():\n{body}\n",
        "services/worker/__init__.py": "",
        "services/worker/app.py": "def late():\n    from services.notifier.watching.hub import Hub\n",
        "services/submitter/submit.py": "from ..worker import app\nfrom .. import notifier\n",
        "services/notifier/watching/hub.py": "import services.runtime\n" * (MODULE_LINES + 1),
        "dev/helpers/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_forbidden_imports_are_found(bad_tree: Path) -> None:
    """Imports inside a function and relative ones are seen too."""
    assert forbidden_imports(bad_tree) == [
        "headway imports services.runtime",
        "services.submitter.submit imports services.notifier",
        "services.submitter.submit imports services.worker.app",
        "services.worker.app imports services.notifier.watching.hub.Hub",
    ]


def test_bad_names_are_found(bad_tree: Path) -> None:
    """Modules and packages are both looked at."""
    assert bad_names(bad_tree) == ["helpers", "queue", "utils"]


def test_what_is_too_long_is_found_unless_it_is_excepted(bad_tree: Path) -> None:
    """One line over is too long, and an exception holds to its own number."""
    module, function = "services/notifier/watching/hub.py", "services/queue.py:long"
    assert sorted(too_long(bad_tree, {})) == [f"{module} has 301 lines", f"{function} has 41 lines"]
    excepted = {module: (301, "it is a test"), function: (40, "one too few")}
    assert too_long(bad_tree, excepted) == [f"{function} has 41 lines"]
