"""Entry point: commands, exit codes, signals."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer

from debiexport._version import __version__
from debiexport.cli import bench, check, coreml, doctor, models, onnx, predict, serve, tensorrt, triton
from debiexport.cli.output import OUTPUT
from debiexport.errors import DebiexportError, Interrupted, OutputError, ParityError, UsageError
from debiexport.interruption import Interruptible, ignore_signals

EXIT_CODES = (
    "Exit codes: 0 ok, 1 a bug of debiexport, 2 usage, 3 parity lost, 4 bad input file,"
    " 5 missing package or platform, 130 interrupted."
)

app = typer.Typer(
    name="debiexport",
    help="DeBiFormer and BiFormer checkpoints become verified deployment bundles.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("onnx")(onnx.command)
app.command("coreml")(coreml.command)
app.command("tensorrt")(tensorrt.command)
app.command("check")(check.command)
app.command("predict")(predict.command)
app.command("serve")(serve.command)
app.command("triton")(triton.command)
app.command("bench")(bench.command)
app.command("models")(models.command)
app.command("doctor")(doctor.command)

# typer's base of errors in options: a message and no exit of its own.
_CommandLineError: Any = typer.BadParameter.__mro__[2]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"debiexport {__version__}", flush=True)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    try:
        code = run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:  # while run began or ended
        code = _interrupted()
    ignore_signals()
    sys.exit(OUTPUT.finish(code))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; no exception leaves this function."""
    # Known before the options are parsed, so that errors in them are reported as asked for.
    OUTPUT.configure(as_json="--json" in arguments, debug="--debug" in arguments)
    # Read by torch's thread pool when it starts. By default its threads spin for milliseconds while they
    # wait, which makes every step many times slower as soon as another process wants a core.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    with Interruptible() as interruptible:
        try:
            interruptible.raise_waiting()
            return _run(arguments)
        except (KeyboardInterrupt, Interrupted):
            interruptible.ignore()
            return _interrupted()


def _run(arguments: list[str]) -> int:
    try:
        result = app(arguments, prog_name="debiexport", standalone_mode=False)
        code = result if isinstance(result, int) else 0
        if code == Interrupted.exit_code:  # typer makes an exit of Ctrl-C, without a word
            raise Interrupted
        return code
    except (KeyboardInterrupt, Interrupted):
        raise
    except typer.Abort as error:
        raise Interrupted from error
    except typer.Exit as error:
        return int(error.exit_code)
    except DebiexportError as error:
        return _fail(error)
    except _CommandLineError as error:
        text = error.format_message().rstrip(".") or "no command was given"
        command = getattr(error.ctx, "command_path", None) or "debiexport"
        return _fail(UsageError(f"{text}; see {command} --help"), error)
    except (BrokenPipeError, SystemExit):  # which typer and rich make of it
        OUTPUT.hang_up()  # whoever read what we say has gone; there is nobody left to tell
        return UsageError.exit_code
    except OSError as error:  # such as a name that is too long
        where = f" {str(error.filename)!r}" if error.filename else ""
        return _fail(UsageError(f"the system refuses{where}: {error.strerror or error}; choose another path"), error)
    except Exception as error:
        if _out_of_memory(error):
            return _fail(UsageError("not enough memory: choose a smaller image size or batch"), error)
        text = f"{type(error).__name__}: {error}"[:300]
        return _fail(DebiexportError(f"a bug of debiexport ({text}): please report it with --debug's output"), error)


def _out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; torch says so by a RuntimeError of its allocator."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("alloc_cpu" in str(error) or "not enough memory" in str(error))
    )


def _interrupted() -> int:
    return _fail(Interrupted("interrupted: nothing half-written was left behind"))


def _fail(error: DebiexportError, cause: BaseException | None = None) -> int:
    if OUTPUT.debug:
        traceback.print_exception(cause or error)
    if isinstance(error, ParityError) and not OUTPUT.as_json:
        _print_what_was_lost(error)
    OUTPUT.failure(str(error), error.exit_code, _details(error))
    return error.exit_code


def _print_what_was_lost(error: ParityError) -> None:
    """Everything that was measured where parity is lost, unless the command has printed it already."""
    parity = getattr(error, "parity", None)
    if parity is None or getattr(error, "result", None) is not None:
        return
    from debiexport.cli.report import lost_lines

    with suppress(OutputError, OSError):  # the error's line is still to come
        OUTPUT.result("\n".join(lost_lines(parity)), {})


def _details(error: DebiexportError) -> dict[str, Any] | None:
    """What was measured where parity is lost, beside the error's line."""
    if not isinstance(error, ParityError):
        return None
    result, parity = getattr(error, "result", None), getattr(error, "parity", None)
    if result is not None:
        return dict(result.to_dict())
    return None if parity is None else {"parity": parity.to_dict()}
