"""What tests of the shell around `decide` look at, and a catalogue in halves."""

from __future__ import annotations

from tests.shell import Shell


def effort_of(shell: Shell) -> str:
    """The rung of the page decided last, from its served record."""
    return str(shell.logged("served")[-1]["effort"])


def odd(number: int) -> bool:
    """Half the items of every kind (kinds follow in turn, by six)."""
    return number // 6 % 2 == 1


async def flushed(shell: Shell) -> None:
    await shell.service.publisher.flush()
