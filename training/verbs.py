"""Verbs of the command line. What carries one out is imported when it runs, so `--help` is instant."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

Verbs = Any  # what argparse's add_subparsers returns has no public name
Run = Callable[[argparse.Namespace], int]


def added(verbs: Verbs, name: str, about: str, run: Run) -> argparse.ArgumentParser:
    one: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
    one.set_defaults(run=run)
    return one


def by_settings(module: str, function: str) -> Run:
    """Called with the arguments and the settings."""

    def run(args: argparse.Namespace) -> int:
        from serving.settings import Settings

        done: int = getattr(import_module(module), function)(args, Settings.from_env())
        return done

    return run


def by_console(module: str, function: str) -> Run:
    """Called with the arguments, the settings and a console."""

    def run(args: argparse.Namespace) -> int:
        from serving.settings import Settings
        from training.progress import wide_console

        done: int = getattr(import_module(module), function)(args, Settings.from_env(), wide_console())
        return done

    return run


def by_desk(module: str, function: str) -> Run:
    """Called with the arguments, the desk and what prints a line."""

    def run(args: argparse.Namespace) -> int:
        from serving.settings import Settings
        from training.desk import desk_of

        done: int = getattr(import_module(module), function)(args, desk_of(Settings.from_env()), print)
        return done

    return run


def by_stores(module: str, function: str) -> Run:
    """Called with the arguments, the desk of a home whose stores answer, and a console."""

    def run(args: argparse.Namespace) -> int:
        from serving.backing import backed
        from serving.settings import Settings
        from training.desk import desk_of
        from training.progress import wide_console

        with backed(Settings.from_env()) as settings:
            done: int = getattr(import_module(module), function)(args, desk_of(settings), wide_console())
        return done

    return run
