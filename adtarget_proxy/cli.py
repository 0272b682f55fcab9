"""The command ``adtarget-proxy``: its subcommands live in the rooms they belong to, and are loaded when they are needed."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version

COMMANDS = {
    "conversion": "adtarget_proxy.console.conversion:conversion",
    "demo": "adtarget_proxy.demo.command:demo",
    "outbox": "adtarget_proxy.console.outbox:outbox",
    "sandbox": "adtarget_proxy.sandbox.command:sandbox",
    "worker": "adtarget_proxy.console.worker:worker",
}

HELP = """Server-side AdTarget tracking for ASGI and WSGI apps.

\b
Try it without an account:
  adtarget-proxy demo                          a landing page, and what AdTarget receives of it
  adtarget-proxy demo --once                   one visitor through it, as a check
  adtarget-proxy sandbox                       AdTarget on your machine
  adtarget-proxy sandbox --error-rate 0.3      ... on a bad day

\b
Operate it:
  adtarget-proxy worker                        send what an outbox holds
  adtarget-proxy outbox status                 how much waits, and what AdTarget refused
  adtarget-proxy conversion --help             report a purchase from a shell or a cron job
"""


def missing_extra(error: ModuleNotFoundError) -> str:
    """What to install; raises ``error`` again where the module that is missing is one of our own."""
    missing = (error.name or "").partition(".")[0]
    if missing in ("", "adtarget_proxy"):
        raise error
    return f"{missing} is not installed. Run: pip install 'adtarget-proxy[cli,server]'"


try:
    import click
except ModuleNotFoundError as _error:
    _message = missing_extra(_error)

    def main() -> None:
        """Says what to install: the command line is an extra."""
        sys.exit(f"adtarget-proxy: {_message}")

else:

    class _Rooms(click.Group):
        """Finds subcommands in ``COMMANDS`` and imports them when they are called or listed."""

        def list_commands(self, ctx: click.Context) -> list[str]:
            return sorted({*super().list_commands(ctx), *COMMANDS})

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            if cmd_name not in COMMANDS:
                return super().get_command(ctx, cmd_name)
            module, _, name = COMMANDS[cmd_name].partition(":")
            try:
                command: click.Command = getattr(import_module(module), name)
            except ModuleNotFoundError as error:
                return _unavailable(cmd_name, missing_extra(error))
            return command

    def _unavailable(name: str, message: str) -> click.Command:
        """Stands in for a command whose extra is absent, so that --help still lists all and a call says what to do."""

        def stop(words: tuple[str, ...]) -> None:  # noqa: ARG001 - whatever was asked for, the answer is the same
            raise click.ClickException(message)

        return click.Command(
            name,
            callback=stop,
            params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)],
            short_help=message,
            add_help_option=False,
            context_settings={"ignore_unknown_options": True},
        )

    @click.group(cls=_Rooms, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(version("adtarget-proxy"), prog_name="adtarget-proxy")
    def main() -> None:
        pass


if __name__ == "__main__":
    main()
