"""The one exception that a user's mistake may raise."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can mend; the command line prints it as one line.

    Args:
        what: what happened, without a full stop.
        where: file, `file:line` or key path.
        expected: what would have been right.
        do: what to do now, as a command where there is one.
    """

    def __init__(
        self, what: str, *, where: str = "", expected: str = "", do: str = ""
    ) -> None:
        self.what, self.where, self.expected, self.do = what, where, expected, do
        parts = [f"{where}: {what}" if where else what]
        if expected:
            parts.append(f"expected {expected}")
        if do:
            parts.append(do)
        super().__init__("; ".join(" ".join(part.split()) for part in parts))
