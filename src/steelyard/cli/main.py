"""`steelyard`: the commands, each imported only when it is asked for, and how they fail.

The rule of this file: a user's mistake is one line on standard error and exit status 2; a run that failed is
exit status 1; only a bug of ours ends in a traceback.
"""

from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperGroup

from steelyard.core.errors import SteelyardError


class Entry(NamedTuple):
    """A command: `module:function`, or a `typer.Typer` for one with commands of its own; and what it does."""

    target: str
    summary: str


COMMANDS = {
    "demo": Entry("steelyard.cli.demo:demo", "Watch a real model hold its SLO through a surge."),
    "serve": Entry("steelyard.cli.serve:serve", "Serve models under a latency objective."),
    "profile": Entry("steelyard.cli.profile:profile", "Measure models over batch sizes and cores."),
    "plan": Entry("steelyard.cli.plan:plan", "Show what a rate needs, without serving it."),
    "simulate": Entry("steelyard.cli.simulate:simulate", "Compare policies on traces, in simulated time."),
    "load": Entry("steelyard.cli.load:load", "Send open-loop load and measure what clients see."),
    "explain": Entry("steelyard.cli.explain:explain", "Show why each decision was taken."),
    "trace": Entry("steelyard.cli.trace:app", "Make and describe arrival traces."),
}

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class LazyGroup(TyperGroup):
    """The top-level group: finds commands in `COMMANDS`, turns errors into one line and an exit status."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command, in the order of the documentation."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one command; None where there is none of that name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].target.partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(cmd_name)(found)
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command named first; an unknown one names the nearest."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            close = get_close_matches(args[0], COMMANDS, n=1, cutoff=0.5)
            guess = f"; did you mean {close[0]}?" if close else ""
            _fail(f"unknown command {args[0]!r}{guess} (known: {', '.join(COMMANDS)})", 2)
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run one command and end the process with its status."""
        extra["standalone_mode"] = False
        try:
            status = super().main(*args, **extra)
        except SteelyardError as error:
            _fail(str(error), 2)
        except typer.Abort:
            _fail("aborted", 130)
        except _UsageError as error:
            _fail(error.format_message(), 2)  # type: ignore[attr-defined]
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        raise SystemExit(status if isinstance(status, int) else 0)


app = typer.Typer(
    name="steelyard",
    cls=LazyGroup,
    help="An inference server that holds a latency SLO with the fewest cores.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Hold a latency SLO with the fewest cores."""
    if version:
        from steelyard import __version__

        typer.echo(f"steelyard {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _fail(message: str, status: int) -> NoReturn:
    """One line, whatever the message was made of."""
    typer.echo(" ".join(message.split()), err=True)
    raise SystemExit(status)
