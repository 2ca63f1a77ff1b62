"""The one exception that means: the user can mend this."""

__all__ = ["UserError"]


class UserError(Exception):
    """Bad input, told in one line: what is wrong, what was expected, what to do.

    The command lines print the message without a traceback and exit with code 2. Every other exception is a bug of ours and
    keeps its traceback.
    """
