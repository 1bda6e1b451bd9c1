"""The main job on the embedded model, over several seeds: what a run gains on examples that its search never saw.

Every seed is one `asyncopt run` in a process of its own, without the cache, with the defaults of model and task;
`--set` passes settings on. All seeds are reported as they come. `--svg` draws the best training score by step and the
held-out scores of the initial and of the best instruction.

    python benchmarks/embedded.py --task antonym --seeds 0 1 2 3 4
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
from common import parser, table, write_json

WIDTH, HEIGHT, MARGIN = 640, 320, 48
COLOURS = ("#2a6f97", "#c1666b", "#4f772d", "#8e6c8a", "#b8860b", "#457b9d", "#6d597a")


def run(task: str, seed: int, settings: list[str]) -> tuple[dict[str, Any], list[float]]:
    """The result of one run, and the best training score after the start and after every step."""
    more = [part for setting in settings for part in ("--set", setting)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "asyncopt", "run", task, "--seed", str(seed), "--no-cache", "--json"]
        done = subprocess.run([*command, "--directory", f"{folder}/run", *more], stdout=subprocess.PIPE, check=True)
    events = [orjson.loads(line) for line in done.stdout.splitlines()]
    best: dict[int, float] = {}
    for event in events:
        if event["event"] == "candidate" and event["score"] is not None:
            best[event["step"]] = max(best.get(event["step"], 0.0), event["score"])
    curve, high = [], 0.0
    for step in range(-1, events[-1]["steps"]):
        high = max(high, best.get(step, 0.0))
        curve.append(high)
    return events[-1], curve


def row(seed: int, result: dict[str, Any]) -> list[str]:
    """One line of the table; scores in percent."""
    initial, best = result["initial"], result["best"]
    gain = 100 * (best["held_out"]["score"] - initial["held_out"]["score"])
    return [
        str(seed),
        f"{100 * initial['train']['score']:.1f} -> {100 * best['train']['score']:.1f}",
        share(initial["held_out"]),
        share(best["held_out"]),
        f"{gain:+.1f}",
        f"{best['step'] + 1}, {best['source']}",
        str(result["calls"]),
        f"{result['seconds']:.0f}",
        f"{result['local_cpu_seconds']:.0f}",
        best["candidate"],
    ]


def share(measured: dict[str, float]) -> str:
    """A score with its 95 % interval, in percent."""
    return f"{100 * measured['score']:.1f} ({100 * measured['low']:.0f}-{100 * measured['high']:.0f})"


def svg(task: str, runs: dict[int, tuple[dict[str, Any], list[float]]]) -> str:
    """A line a seed, and at its ends the held-out scores as circles: open for the initial, full for the best."""
    steps = max(len(curve) for _, curve in runs.values()) - 1

    def x(step: int) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * step / max(steps, 1)

    def y(score: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * score

    title = f"OPRO on {task}, embedded 135M-parameter model, {len(runs)} seeds"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="22" fill="#222222">{title}</text>',
    ]
    for level in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{MARGIN} {y(level):.1f}H{WIDTH - MARGIN}" stroke="#dddddd"/>')
        parts.append(f'<text x="8" y="{y(level) + 4:.1f}" fill="#555555">{100 * level:.0f} %</text>')
    for step, anchor, label in ((0, "start", "start"), (steps, "end", f"step {steps}")):
        at = f'x="{x(step):.0f}" y="{HEIGHT - MARGIN + 16}" text-anchor="{anchor}"'
        parts.append(f'<text {at} fill="#555555">{label}</text>')
    for (seed, (result, curve)), colour in zip(runs.items(), COLOURS, strict=False):
        points = " ".join(f"{x(step):.1f},{y(score):.1f}" for step, score in enumerate(curve))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        shift = 5 * (seed % 5) - 10
        for place, key, fill in ((0, "initial", "#ffffff"), (steps, "best", colour)):
            held = result[key]["held_out"]["score"]
            parts.append(
                f'<circle cx="{x(place) + shift:.1f}" cy="{y(held):.1f}" r="4" fill="{fill}" stroke="{colour}"/>'
            )
    caption = "lines: best training score by step; circles: held out, initial (open) and best (full)"
    parts.append(f'<text x="{MARGIN}" y="{HEIGHT - 14}" fill="#555555">{caption}</text></svg>')
    return "\n".join(parts) + "\n"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--task", default="antonym")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options.add_argument("--jobs", type=int, default=1, help="runs at once; times are true for 1 only")
    options.add_argument("--set", action="append", default=[], metavar="A.B=C")
    options.add_argument("--svg", type=Path, default=None, help="also draw the runs here")
    chosen = options.parse_args()
    with ThreadPoolExecutor(chosen.jobs) as pool:
        waiting = {seed: pool.submit(run, chosen.task, seed, chosen.set) for seed in chosen.seeds}
        runs = {seed: future.result() for seed, future in waiting.items()}
    heads = [
        "seed",
        "train",
        "held out, initial",
        "held out, best",
        "gain",
        "found in step",
        "calls",
        "s",
        "CPU-s",
        "best",
    ]
    print()
    table(heads, [row(seed, result) for seed, (result, _) in runs.items()])
    gains = [r["best"]["held_out"]["score"] - r["initial"]["held_out"]["score"] for r, _ in runs.values()]
    print(f"\nmedian gain on held-out examples: {100 * statistics.median(gains):+.1f} points over {len(gains)} seeds")
    write_json(
        chosen.json, "embedded", {"task": chosen.task, "set": chosen.set}, {str(s): r for s, (r, _) in runs.items()}
    )
    if chosen.svg is not None:
        chosen.svg.write_text(svg(chosen.task, runs), encoding="utf-8")


if __name__ == "__main__":
    main()
