"""The command ``lossmith``: one file a command, wired together in :mod:`lossmith.cli.app`.

A command is a function that prints and returns its exit status: 0 when all is well, 1 when what was asked for failed or could not be
done, 2 when the command line itself was wrong or an extra is missing, 130 after Ctrl-C.
"""
