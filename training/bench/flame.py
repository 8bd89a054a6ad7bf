"""`fenliu bench flame` (`make profile`): a flame graph of the replica's request path, as SVG.

The product's ASGI application in this process under load, its thread sampled a few hundred times a second;
each box is a function, as wide as the share of samples it was on the stack in. No profiler is needed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from training.bench.harness import Result
from training.progress import wide_console

if TYPE_CHECKING:
    from types import FrameType

    from training.bench.serve_world import Served

ABOUT = "a flame graph (SVG) of the request path, sampled in process"
EVERY_S: Final = 0.002
WIDTH, HEIGHT, LEAST = 1200, 17, 0.001
SWITCH_S: Final = 1e-4  # of the interpreter: the sampler waits no longer for its turn


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("reports/flame.svg"), metavar="FILE")
    parser.add_argument("--seconds", type=float, default=argparse.SUPPRESS, help="15; with --quick 3")
    parser.add_argument("--together", type=int, default=16, help="requests at once")
    parser.add_argument("--customers", type=int, default=5_000)


def run(args: argparse.Namespace) -> Result:
    from training.bench.serve_world import Sizes, opened

    seconds = getattr(args, "seconds", 3.0 if args.quick else 15.0)
    console = wide_console()
    with opened(console, Sizes(customers=args.customers)) as served:
        stacks = asyncio.run(_sampled(served, seconds, args.together))
    total = sum(stacks.values())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(svg(stacks, f"{total:,} samples of {seconds:g} s, {args.together} requests at once"))
    console.print(f"written: {args.out}")
    shell = sum(n for stack, n in stacks.items() if not any(name.startswith("decide.py") for name in stack))
    return Result({"samples": total, "outside_decide_share": shell / max(1, total)})


async def _sampled(served: Served, seconds: float, together: int) -> Counter[tuple[str, ...]]:
    from serving.front import Front
    from training.bench.budget import asked

    app = Front(served.settings)
    await app.startup()
    stacks: Counter[tuple[str, ...]] = Counter()
    over = threading.Event()
    own = threading.get_ident()
    sampler = threading.Thread(target=_sample, args=(own, over, stacks), daemon=True)
    switch = sys.getswitchinterval()
    try:
        asks = served.requests_asgi(1_000)
        await asked(app, asks[:300], together)
        sys.setswitchinterval(SWITCH_S)
        sampler.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asked(app, asks, together)
    finally:
        over.set()
        sys.setswitchinterval(switch)
        await app.shutdown()
    sampler.join(1.0)
    return stacks


def _sample(thread: int, over: threading.Event, stacks: Counter[tuple[str, ...]]) -> None:
    while not over.wait(EVERY_S):
        frame = sys._current_frames().get(thread)  # public by its documentation, in spite of its name
        if frame is not None:
            stacks[stack_of(frame)] += 1


def stack_of(frame: FrameType | None) -> tuple[str, ...]:
    """Outermost first: file and function."""
    found: list[str] = []
    while frame is not None:
        code = frame.f_code
        found.append(f"{Path(code.co_filename).name}:{code.co_name}")
        frame = frame.f_back
    return tuple(reversed(found))


@dataclass(slots=True)
class _Box:
    count: int = 0
    below: dict[str, _Box] = field(default_factory=dict)


def svg(stacks: Counter[tuple[str, ...]], title: str) -> str:
    """The picture; a box says its share where the pointer rests."""
    root, depth = _Box(), 0
    for stack, count in stacks.items():
        box = root
        box.count += count
        for name in stack:
            box = box.below.setdefault(name, _Box())
            box.count += count
        depth = max(depth, len(stack))
    height = (depth + 2) * HEIGHT
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace"'
    parts = [f'{head} font-size="11"><text x="4" y="13">{escape(title)}</text>']
    _draw(root, 0.0, 1, root.count or 1, parts)
    return "\n".join((*parts, "</svg>\n"))


def _draw(box: _Box, x: float, level: int, total: int, parts: list[str]) -> None:
    for name, one in sorted(box.below.items()):
        width = one.count / total * WIDTH
        if one.count / total >= LEAST:
            hue = 10 + sum(name.encode()) % 45
            label = escape(name[: max(0, int(width / 7))])
            at = f'x="{x:.1f}" y="{level * HEIGHT}" width="{max(width - 0.5, 0.5):.1f}"'
            parts.append(
                f"<g><title>{escape(name)}: {one.count / total:.1%}</title>"
                f'<rect {at} height="{HEIGHT - 1}" fill="hsl({hue},80%,68%)"/>'
                f'<text x="{x + 2:.1f}" y="{level * HEIGHT + 12}">{label}</text></g>'
            )
            _draw(one, x, level + 1, total, parts)
        x += width
