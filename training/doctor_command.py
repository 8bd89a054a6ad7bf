"""`fenliu doctor` on a terminal, or as JSON."""

from __future__ import annotations

import argparse
import os
import time

import orjson
from rich.console import Console
from rich.table import Table

from serving.json_log import redacted
from serving.settings import Settings, SettingsError
from training.doctor import Finding, examined

_LOOKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "bad": "[bold red]bad[/]"}


def doctor(args: argparse.Namespace, console: Console) -> int:
    """Exit status 1 when something is bad."""
    try:
        found = examined(os.environ, Settings.from_env(), time.time)
    except SettingsError as bad:
        found = [Finding("settings", "bad", str(bad), "change the environment as it says")]
    found = [one._replace(said=redacted(one.said)) for one in found]
    worst = any(one.state == "bad" for one in found)
    if args.json:
        print(orjson.dumps({"ok": not worst, "findings": [one._asdict() for one in found]}).decode())
        return int(worst)
    table = Table("what", "", "is", "to do")
    for one in found:
        table.add_row(one.about, _LOOKS[one.state], one.said, one.remedy)
    console.print(table)
    return int(worst)
