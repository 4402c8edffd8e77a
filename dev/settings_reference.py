"""The tables of docs/settings.md, generated from the settings of the services.

`python -m dev.settings_reference` updates the page. The text below a field of a settings class is its description.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import NODEFAULT

from dev.environment import ROOT, service_environment
from services.notifier.settings import NotifierSettings
from services.runtime.queue_settings import QueueSettings
from services.runtime.settings import MAX_NUMBER, OriginList, Secret, Settings, StringList, TraceUrl, Url
from services.runtime.tracing import TracingSettings
from services.submitter.settings import SubmitterSettings
from services.worker.settings import WorkerSettings

PAGE = ROOT / "docs/settings.md"
BEGIN, END = "<!-- by python -m dev.settings_reference -->", "<!-- until here -->"
GROUPS: dict[str, type[Settings]] = {
    "Every service": Settings,
    "Submitter and worker: the queue": QueueSettings,
    "Submitter and worker: traces": TracingSettings,
    "Submitter": SubmitterSettings,
    "Worker": WorkerSettings,
    "Notifier": NotifierSettings,
}
LOCAL = """\
`make up` sets these variables, if you do not. It adds your `ALLOWED_ORIGINS` to its own. `.headway/env` has all its
variables, those with secrets included. Do not source it in a shell: its values are not quoted. To use another folder
than `.headway`, set `HEADWAY_DIR`."""
TYPE_NAMES: dict[Any, str] = {
    int: "integer",
    float: "number",
    bool: "`true` or `false`",
    str: "text",
    Secret: "secret",
    Url: "URL",
    TraceUrl: "URL with `{trace_id}`",
    Path: "file",
    StringList: "list",
    OriginList: "list of origins",
}


class Setting(NamedTuple):
    """A setting as the page describes it."""

    variable: str
    type: str
    default: str
    meaning: str


def settings(group: type[Settings]) -> Iterator[Setting]:
    """Yield the settings that a class declares itself, in the order of their declarations."""
    fields = {field.name: field for field in msgspec.structs.fields(group)}
    for name, description in descriptions(group).items():
        field = fields[name]
        default = "required" if field.default is NODEFAULT else _default(field.default)
        yield Setting(f"`{name.upper()}`", type_name(field.type), default, _link(description))


def descriptions(group: type[Settings]) -> dict[str, str]:
    """Return the texts below the fields that a class declares; raise ValueError if one is missing."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(group))).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101
    found = {}
    for statement, next_statement in zip(definition.body, [*definition.body[1:], None], strict=True):
        match statement:
            case ast.AnnAssign(target=ast.Name(name)) if name in group.__struct_fields__:
                match next_statement:
                    case ast.Expr(ast.Constant(str(text))):
                        found[name] = " ".join(text.split())
                    case _:
                        raise ValueError(f"{group.__name__}.{name} has no description")
    return found


def type_name(annotation: Any) -> str:
    """Describe a type with its bounds: `integer, 0 to 10`, `integer, at least 1` or `number, more than 0`."""
    if annotation in TYPE_NAMES:
        return TYPE_NAMES[annotation]
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if get_origin(annotation) is Annotated:
        base, meta = arguments
        if meta.le not in (None, MAX_NUMBER):
            return f"{type_name(base)}, {meta.ge} to {meta.le}"
        return f"{type_name(base)}, {f'more than {meta.gt}' if meta.ge is None else f'at least {meta.ge}'}"
    (optional,) = [argument for argument in arguments if argument is not type(None)]
    return type_name(optional)


def _default(value: Any) -> str:
    if value is None or value == ():
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _link(text: str) -> str:
    return re.sub(r"docs/([\w.-]+\.md)(#[\w-]+)?", r"[\1](\1\2)", text)


def local_values() -> Iterator[tuple[str, str]]:
    """Yield the variables that `make up` sets, apart from secrets, with their values."""
    fields = [field for group in GROUPS.values() for field in msgspec.structs.fields(group)]
    secrets = {field.name.upper() for field in fields if type_name(field.type) == "secret"}
    for name, value in service_environment(Path(".headway"), {}).items():
        if name not in secrets:
            yield f"`{name}`", f"`{value}`"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Format a table in Markdown."""
    columns = list(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *rows])


def reference() -> str:
    """Return the generated part of the page."""
    head = ("setting", "type", "default", "meaning")
    parts = [f"## {title}\n\n{table(head, settings(group))}" for title, group in GROUPS.items()]
    local = table(("variable", "value"), local_values())
    return "\n\n".join([*parts, f"## On one machine\n\n{LOCAL}\n\n{local}"])


def update(page: str) -> str:
    """Return the page with the current reference between its marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{reference()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(update(PAGE.read_text()))
