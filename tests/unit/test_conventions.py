"""Conventions worth having are tests: imports point one way, files stay short, what a user meets is documented."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click
import pydantic
import pytest
import yaml

from tests.support.fetch_servers import FetchError, debian_mirror

ROOT = Path(__file__).resolve().parents[2]
LEAVES = {"engine.schema", "engine.changes", "engine.errors", "engine.source", "engine.destination"}
SHARED = {
    "connectors.columnar",
    "connectors.inbox",
    "connectors.kept",
    "connectors.leftout",
    "connectors.pace",
    "connectors.registry",
    "connectors.poll",
}
"""What every connector may use besides the leaves."""
LIBRARIES = {"numpy", "pyarrow", "structlog"}
DRIVERS = {"postgres": {"psycopg"}, "mysql": {"pymysql", "pymysqlreplication"}, "sqlserver": {"pymssql"}}
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LONGEST_FILE = 400


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules that a file imports anywhere, for types too; `from a import b` counts as `a.b` if that is a module."""
    found: set[str] = set()
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                file = ROOT / inner.replace(".", "/")
                found.add(inner if file.with_suffix(".py").exists() or file.is_dir() else base)
    return frozenset(found)


def within(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def project(modules: frozenset[str]) -> set[str]:
    return {module for module in modules if within(module, {"engine", "connectors", "tests", "benchmarks"})}


def third_party(modules: frozenset[str]) -> set[str]:
    import sys

    return (
        {m.partition(".")[0] for m in modules} - set(sys.stdlib_module_names) - {"engine", "connectors", "__future__"}
    )


class TestImports:
    def test_leaves_import_leaves_only(self) -> None:
        for leaf in sorted(LEAVES):
            path = ROOT / f"{leaf.replace('.', '/')}.py"
            assert project(imports(path)) <= LEAVES, leaf
            assert third_party(imports(path)) <= {"pyarrow"}, leaf

    def test_a_connector_imports_leaves_the_shared_modules_itself_and_its_driver(self) -> None:
        for path in sources("connectors"):
            module = module_of(path)
            package = path.relative_to(ROOT).parts[1] if len(path.relative_to(ROOT).parts) > 2 else ""
            name = package if (ROOT / "connectors" / package).is_dir() else ""
            allowed = LEAVES | SHARED | ({f"connectors.{name}"} if name else set())
            strangers = {m for m in project(imports(path)) if not within(m, allowed) and m != "connectors"}
            assert not strangers, f"{module} imports {sorted(strangers)}"
            libraries = LIBRARIES | DRIVERS.get(name, set())
            assert third_party(imports(path)) <= libraries, f"{module} imports {third_party(imports(path)) - libraries}"

    def test_duckdb_is_imported_by_the_replica_only(self) -> None:
        for path in sources("engine", "connectors"):
            if not within(module_of(path), {"engine.replica"}):
                assert not within("duckdb", set(imports(path))), f"{module_of(path)} imports duckdb"

    def test_the_pipeline_sees_protocols_only(self) -> None:
        allowed = LEAVES | {"engine.pipeline", "engine.status"}
        for path in sources("engine/pipeline"):
            strangers = {m for m in project(imports(path)) if not within(m, allowed)}
            assert not strangers, f"{module_of(path)} imports {sorted(strangers)}"

    def test_the_replica_knows_no_connector_and_nothing_above_it(self) -> None:
        forbidden = {
            "connectors",
            "engine.pipeline",
            "engine.instance",
            "engine.supervisor",
            "engine.cli",
            "engine.demo",
        }
        for path in sources("engine/replica"):
            strangers = {m for m in imports(path) if within(m, forbidden)}
            assert not strangers, f"{module_of(path)} imports {sorted(strangers)}"

    def test_nothing_imports_the_command_line(self) -> None:
        for path in sources("engine", "connectors"):
            if not within(module_of(path), {"engine.cli"}):
                strangers = {m for m in imports(path) if within(m, {"engine.cli"})}
                assert not strangers, f"{module_of(path)} imports {sorted(strangers)}"

    def test_the_product_imports_no_test_and_no_benchmark(self) -> None:
        for path in sources("engine", "connectors"):
            assert not {m for m in imports(path) if within(m, {"tests", "benchmarks"})}, module_of(path)


@cache
def documentation() -> str:
    return "\n".join(path.read_text() for path in DOCUMENTS if path.exists())


def loaded(module: str, name: str) -> Any:
    """A part of the product; a missing module fails clearly, its own broken import as what it is."""
    return getattr(importlib.import_module(module), name)


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        elif not command.hidden:
            yield f"{prefix}{name}", command


class TestDocumentation:
    def test_every_command_and_option_is_documented(self) -> None:
        main = loaded("engine.cli", "main")
        text = documentation()
        missing: list[str] = []
        for name, command in commands(main):
            if not re.search(rf"`(?:reflex-engine )?{re.escape(name)}\b|reflex-engine {re.escape(name)}\b", text):
                missing.append(f"reflex-engine {name}")
            for option in command.params:
                if isinstance(option, click.Option) and not option.hidden:
                    flag = max(option.opts, key=len)
                    if flag not in text:
                        missing.append(f"reflex-engine {name} {flag}")
        assert not missing, f"neither README nor docs mention: {missing}"

    def test_every_endpoint_is_documented(self) -> None:
        create_app = loaded("engine.instance.app", "create_app")
        assert callable(create_app)
        text = documentation()
        shapes = {path: re.sub(r"\\{\w+\\}", r"\{\\S+\}", re.escape(path)) for path in sorted(route_paths())}
        missing = [path for path, shape in shapes.items() if not re.search(rf"{shape}(?![\w/])", text)]
        assert not missing, f"neither README nor docs mention: {missing}"

    def test_every_configuration_field_is_documented(self) -> None:
        configs = (loaded("engine.config", "Config"), loaded("engine.control.config", "ControlConfig"))
        text, shown = documentation(), keys_in_examples()
        names = [name for config in configs for name in fields(config)]
        missing = [name for name in names if name not in shown and f"`{name}`" not in text]
        assert not missing, f"neither README nor docs mention: {missing}"


def route_paths() -> set[str]:
    """The paths that routers and apps declare, by their decorators (an instance's app needs a running instance)."""
    found = {f"/databases/{{id}}/{action}" for action in loaded("engine.control.actions", "ACTIONS")}
    for path in sources("engine/instance", "engine/control"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr
                in ("get", "post", "put", "patch", "delete", "add_api_route", "api_route", "add_route")
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and isinstance(node.args[0].value, str)
                and node.args[0].value.startswith("/")
            ):
                found.add(re.sub(r":\w+}", "}", node.args[0].value))
    return found


def fields(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of a model's leaf fields, as a user writes them."""
    for name, info in model.model_fields.items():
        dotted = f"{prefix}{info.alias or name}"
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            yield from fields(annotation, f"{dotted}.")
        else:
            yield dotted


@cache
def keys_in_examples() -> frozenset[str]:
    """Every dotted key of the YAML examples in the documents."""
    found: set[str] = set()

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                found.add(f"{prefix}{key}")
                walk(value, f"{prefix}{key}.")

    for block in re.findall(r"```ya?ml\n(.*?)```", documentation(), flags=re.DOTALL):
        walk(yaml.safe_load(block), "")
    return frozenset(found)


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


class TestFiles:
    def test_source_files_stay_short(self) -> None:
        lengths = {path: len(path.read_text().splitlines()) for path in sources("engine", "connectors", "benchmarks")}
        long = {module_of(path): length for path, length in lengths.items() if length > LONGEST_FILE}
        assert not long, f"longer than {LONGEST_FILE} lines: {long}"

    def test_nothing_tracked_names_a_machine_or_a_registry(self) -> None:
        hosts = [
            r"deb\.debian" + r"\.org",
            r"security\.debian" + r"\.org",
            r"pypi" + r"\.org",
            r"registry\.npmjs" + r"\.",
        ]
        try:
            mirror = re.sub(r"^\w+://([^/]+)/.*$", r"\1", debian_mirror() + "/")
            hosts.append(re.escape(mirror))
        except FetchError:
            pass  # no Debian: no mirror of its own to give away
        folders = ["/" + "work/", "/" + "root/", r"/" + r"home/(?!USER\b)\w+"]
        forbidden = re.compile("|".join([*hosts, *folders]))
        found = []
        for path in tracked():
            try:
                text = path.read_text()
            except UnicodeDecodeError:
                continue  # captured bytes
            found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in forbidden.finditer(text)]
        assert not found

    def test_every_package_and_module_says_what_it_is(self) -> None:
        for path in sources("engine", "connectors", "benchmarks"):
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path.relative_to(ROOT)} has no docstring"
