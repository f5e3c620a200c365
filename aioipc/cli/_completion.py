"""Completion in bash of words with colons, as addresses are.

To bash a colon ends a word, and what is completed is only what comes after it.  So it is not enough to complete the
last of its words, as click does: this looks at the line, and leaves out of the answer what bash does not replace.
"""

from __future__ import annotations

import os
import re
from typing import Any

from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string


class _Bash(BashComplete):
    source_template = BashComplete.source_template.replace(
        "env ", 'env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" '
    )

    _incomplete = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        self._incomplete = "" if line[-1:].isspace() else words.pop()
        return words[1:], self._incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        breaks = "".join(letter for letter in os.environ["COMP_WORDBREAKS"] if letter in ":=")
        kept = re.match(f".*[{breaks}]", self._incomplete) if breaks else None
        return f"{item.type},{item.value[kept.end() if kept else 0 :]}"


def install() -> None:
    """Let click use this."""
    add_completion_class(_Bash)
