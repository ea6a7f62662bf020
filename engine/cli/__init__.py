"""The command line: ``reflex-engine``.

Exit codes: 0 fine; 1 unexpected; 2 bad configuration or usage; 3 a precondition of the source fails. Everything that a
command needs is imported when it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from engine.config import Config

URL = "http://127.0.0.1:8080"


class ErrorsToExitCodes(click.Group):
    """The command group: turns the errors that a command raises into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - reported, and turned into an exit code
            from engine.cli.errors import report

            as_log = ctx.invoked_subcommand in {"run", "control"} and not sys.stderr.isatty()
            ctx.exit(report(error, as_log=as_log))


CONFIG = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    help="The configuration (reflex.yaml). Default: REFLEX_CONFIG, a path or the YAML/JSON itself.",
)
AT_URL = click.option("--url", default=URL, show_default=True, metavar="U", help="Where the instance answers.")
TOKEN = click.option("--token", envvar="REFLEX_TOKEN", metavar="T", help="Bearer token. Default: REFLEX_TOKEN.")


@click.group(cls=ErrorsToExitCodes, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="reflex-engine")
def main() -> None:
    """A live, exact, queryable DuckDB copy of a production database."""


@main.command()
@CONFIG
def run(config_path: str | None) -> None:
    """Run one instance in the foreground until SIGTERM or SIGINT."""
    # Imports make many objects and no garbage; the instance collects again once it has started.
    gc.disable()
    _import_less()
    config = _load(config_path)
    from engine.supervisor import run_instance

    _finish(run_instance(config))


def _import_less() -> None:
    """Save a tenth of the start-up: rich, which structlog imports for tracebacks that are not shown, pydantic's look into
    every installed distribution for plugins, of which none has a business with a configuration's secrets, and pydantic's
    first version, which FastAPI would know models of (it goes without where it is not installed)."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.modules.setdefault("pydantic.v1", None)  # type: ignore[arg-type]
    if "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]
        try:
            import structlog  # noqa: F401
        finally:
            del sys.modules["rich"]


@main.command()
@CONFIG
def check(config_path: str | None) -> None:
    """Verify every precondition of the source; print what fixes each that fails."""
    config = _load(config_path)
    from engine.cli.source import check_source

    _finish(check_source(config))


@main.command()
@click.option("--duration", type=click.FloatRange(min=1), metavar="S", help="End after S seconds, with a summary.")
def demo(duration: float | None) -> None:
    """See it work: an embedded PostgreSQL, steady writes, and a live replica of it."""
    from engine.demo import run_demo

    _finish(run_demo(duration=duration))


@main.command()
@click.argument("sql")
@AT_URL
@TOKEN
@click.option("--format", "form", type=click.Choice(["table", "json", "csv", "arrow"]), default="table")
@click.option(
    "--timeout", type=click.FloatRange(min=0.001), metavar="S",
    help="Cancel it after S seconds (`timeout_ms` of POST /query).  [default: 30, the instance's]",
)  # fmt: skip
def query(sql: str, url: str, token: str | None, form: str, timeout: float | None) -> None:
    """Ask a running instance."""
    from engine.cli.ask import print_answer

    if form == "arrow" and sys.stdout.isatty():
        raise click.UsageError("an Arrow stream is binary: send standard output to a file or a program")
    _finish(print_answer(sql, url, token, form, timeout))


@main.command()
@AT_URL
@TOKEN
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
def status(url: str, token: str | None, watch: bool) -> None:
    """Show health, lag and the state of every table of a running instance."""
    from engine.cli.ask import print_status, watch_status

    _finish(watch_status(url, token) if watch else print_status(url, token))


@main.command()
@CONFIG
def teardown(config_path: str | None) -> None:
    """Drop what the engine made at the source: PostgreSQL's slot and publications; elsewhere it makes nothing."""
    config = _load(config_path)
    from engine.cli.source import teardown_source

    _finish(teardown_source(config))


CONTROL_CONFIG = click.option(
    "--config", "config_path", required=True, metavar="FILE", help="The control API's configuration (control.yaml)."
)
KEY_NAME = click.option("--name", required=True, metavar="NAME", help="What the key is for; unique in its account.")
ACCOUNT = click.option("--account", default="default", show_default=True, metavar="NAME", help="Whose key it is.")


@main.command()
@CONTROL_CONFIG
def control(config_path: str) -> None:
    """Run the control API until SIGTERM or SIGINT."""
    from engine import logs
    from engine.control.config import load_control_config

    logs.configure()
    config = load_control_config(config_path)
    from engine.control.service import run_control

    _finish(run_control(config))


@main.group()
def keys() -> None:
    """Manage the bearer tokens of the control API."""


@keys.command()
@CONTROL_CONFIG
@KEY_NAME
@ACCOUNT
def create(config_path: str, name: str, account: str) -> None:
    """Make a key, and its account if there is none; print its token, which is shown only now."""
    from engine.cli.keys import print_new_key

    _finish(print_new_key(config_path, name, account))


@keys.command("list")
@CONTROL_CONFIG
def list_(config_path: str) -> None:
    """Show every key, without its token."""
    from engine.cli.keys import print_keys

    _finish(print_keys(config_path))


@keys.command()
@CONTROL_CONFIG
@KEY_NAME
@ACCOUNT
def revoke(config_path: str, name: str, account: str) -> None:
    """Make a key's token worthless, at once."""
    from engine.cli.keys import revoke_key

    _finish(revoke_key(config_path, name, account))


def _load(path: str | None) -> Config:
    """Read the configuration, and log as it says."""
    from engine import logs
    from engine.config import load_config

    logs.configure()
    config = load_config(path)
    logs.configure(config.instance.log_level, config.secrets)
    return config


def _finish(code: int) -> NoReturn:
    """End the command with an exit code (click takes a returned value for 0)."""
    click.get_current_context().exit(code)
