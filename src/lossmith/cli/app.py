"""The commands, their help, and the one place where what goes wrong becomes a line and an exit status."""

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import TextIO

from cyclopts import App, CycloptsError, Parameter

import lossmith
from lossmith._checks import nearest
from lossmith.cli import problems
from lossmith.cli.output import console
from lossmith.cli.problems import Problem

STORY = """\
Training objectives for PyTorch, held to their word and compared honestly.

1. find one for you        lossmith find "noisy labels, few rare classes"
2. read what it promises   lossmith show generalized_cross_entropy --plot
3. see whether it helps    lossmith compare --data digits --seeds 10 \\
                             --noise symmetric:0.4 --objectives ce,gce:q=0.7"""

EPILOGUE = """\
Write your own:
  lossmith new my_loss             a file with a card and a test, which passes
  lossmith check my_loss:my_loss   the examination that our own objectives pass

Every command has --help with examples; --debug shows an error's traceback.
Exit status: 0 all is well, 1 something failed, 2 the command line was wrong or
an extra is missing, 130 after Ctrl-C."""

COMMANDS = {
    "find": (
        "List the objectives, or rank them for a situation in your own words.",
        """\
Examples:
  lossmith find                                    everything, by room
  lossmith find "noisy labels, few rare classes"   ranked, with the reasons
  lossmith find @robust                            a group; compare takes it
  lossmith find --task classification --property convex --property proper
  lossmith find "calibrated probabilities" --json""",
    ),
    "show": (
        "Show an objective's card: formula, source, ranges, limits, claims; or all that follows from a convex function.",
        """\
Examples:
  lossmith show gce                        names and aliases alike
  lossmith show gce --plot                 loss and gradient against the margin
  lossmith show gce:q=0.3 --plot gce.svg   the same as a picture (PNG, SVG, PDF)
  lossmith show kl --derived               everything derived from one generator
  lossmith show "tsallis(alpha=1.5)" --derived --plot entmax.svg
  lossmith show cross_entropy --json""",
    ),
    "check": (
        "Examine an objective, the library's or your own: shapes, masks, weights, gradients, extremes, and every claim of its card.",
        """\
Examples:
  lossmith check generalized_cross_entropy
  lossmith check my_package.losses:my_loss --form logits --claims convex,proper
  lossmith check my_loss:my_loss --seeds 20 --json

A function without a card is called function(logits, target); --form says what
its logits are. The exit status is 1 when a check fails.""",
    ),
    "compare": (
        "Compare objectives on data: the same model, splits, initial weights, batches and tuning budget for each.",
        """\
Examples:
  lossmith compare --data digits --noise symmetric:0.4 \\
      --objectives cross_entropy,gce:q=0.7,classification_mae --seeds 10
  lossmith compare --data patients.csv --target outcome \\
      --objectives cross_entropy,focal_loss:gamma=2 --metric balanced_accuracy
  lossmith compare --data visits.csv --target ill --objectives ce,gce \\
      --group patient --folds 5 --seeds 2 --time 90m
  lossmith compare --data my_data:load --model my_models:resnet \\
      --objectives ce,my_loss:my_loss --stop best
  lossmith compare --data digits,wine,breast_cancer \\
      --objectives @robust --noise none,symmetric:0.2,symmetric:0.4
  lossmith compare --data wine --objectives ce,gce --dry-run      the plan alone
  lossmith compare ... --backend dask://head:8786        on a cluster's workers
  lossmith compare ... --shard 3/16             one of 16 jobs of a batch queue

Interrupted, the same command goes on where it stopped. The first objective is
the baseline unless --baseline says otherwise.""",
    ),
    "report": (
        "Rebuild the table and the report of a study from its store.",
        """\
Examples:
  lossmith report lossmith-report/trials.sqlite
  lossmith report trials.sqlite --out report --study 2   its second study
  lossmith report trials.sqlite --format latex           a table for a paper
  lossmith report parts/*.sqlite --out report            a study run in parts""",
    ),
    "new": (
        "Write an objective of your own: a file with a card and a test that pass as they stand.",
        """\
Examples:
  lossmith new my_loss
  lossmith new my_loss --out src/losses
  pytest test_my_loss.py

Nothing is ever overwritten.""",
    ),
    "cite": (
        "Print the BibTeX of an objective and of lossmith.",
        """\
Examples:
  lossmith cite generalized_cross_entropy >> paper.bib
  lossmith cite                              lossmith alone""",
    ),
}
"""Command -> what it does in a sentence, and examples. The functions are imported when they are called."""


def build() -> App:
    """The command line."""
    app = App(
        name="lossmith",
        help=STORY,
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        version=f"lossmith {lossmith.__version__}",
        default_parameter=Parameter(negative=(), show_default=lambda value: None if value in (None, (), "", False) else value),
        console=console(),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, (summary, examples) in COMMANDS.items():
        app.command(f"lossmith.cli.{name}:{name}", name=name, help=summary, help_epilogue=examples)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return the exit status, whatever happens."""
    arguments = list(arguments)
    debug = "--debug" in arguments
    arguments = _plot_without_path([argument for argument in arguments if argument != "--debug"])
    known = bool(arguments) and arguments[0] in COMMANDS
    command = f"lossmith {arguments[0]}" if known else "lossmith"
    if arguments and not known and not arguments[0].startswith("-"):
        options = f"{nearest(arguments[0], COMMANDS)}; the commands are {', '.join(COMMANDS)}"
        return _complain(command, f"there is no command {arguments[0]!r}{options}", problems.USAGE)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn  # restored by catch_warnings
            status = build()(arguments, exit_on_error=False, print_error=False)
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        return _complain(command, "stopped", problems.INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has seen enough; Python must not complain again while it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return problems.FAILED
    except CycloptsError as error:
        return _complain(command, f"{' '.join(str(error).split())} (see {command} --help)", problems.USAGE)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _complain(command, problems.message(error), error.status if isinstance(error, Problem) else problems.FAILED)


def _plot_without_path(arguments: list[str]) -> list[str]:
    """``--plot`` takes a path or none: without one it means the terminal. A path is what has a suffix or a folder in it."""
    if arguments[:1] != ["show"] or "--plot" not in arguments:
        return arguments
    place = arguments.index("--plot") + 1
    follows = arguments[place] if place < len(arguments) else ""
    suffix = os.path.splitext(follows)[1]
    if not follows.startswith("-") and (suffix[1:].isalpha() or os.sep in follows):
        return arguments
    return [*arguments[: place - 1], "--plot=terminal", *arguments[place:]]


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    print(f"lossmith: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _complain(command: str, text: str, status: int) -> int:
    print(f"{command}: {text}", file=sys.stderr)
    return status
