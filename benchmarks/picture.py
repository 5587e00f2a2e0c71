"""How soon the page of a large plan is there, and how soon it follows the pointer.

    python benchmarks/picture.py                     64 ranks, 512 micro-batches
    python benchmarks/picture.py 16 64               another size
    python benchmarks/picture.py --page FILE.html    a page that is there

In headless Chromium; written to stdout as one JSON object, in milliseconds. `paint`: from the
beginning of loading to the first paint with content; `drawn`: until the chart is drawn, so with all
of the script's work before. The others, median and largest of many: from an event (of the operating
system, as its time stamp says) until the frame that shows its effect has been handed over. `hover`:
the pointer goes over bars; `pan`: the chart is dragged; `zoom`: the wheel is turned. `touched`: how
many bars a draw looked at.
"""

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from browser import Browser

from stretto.compiler import compile_file
from stretto.compiler.show import draw

SCHEDULE = "zb_h1"
LISTEN = """
globalThis.took = [];
for (const kind of ["pointermove", "wheel"]) {
  window.addEventListener(kind, (event) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => took.push(performance.now() - event.timeStamp);
    requestAnimationFrame(() => channel.port2.postMessage(0));
  }, { capture: true, passive: true });
}
"""
PLACE = """(() => {
  const canvas = document.querySelector("#over") ?? document.querySelector("canvas");
  const { x, y, width, height } = canvas.getBoundingClientRect();
  return [x, y, width, Math.min(height, innerHeight - y)];
})()"""
DRAWN = """
  performance.getEntriesByName("drawn")[0]?.startTime ?? performance.timing.loadEventEnd -
  performance.timing.navigationStart
"""


def main() -> None:
    match sys.argv[1:]:
        case ["--page", name]:
            print(json.dumps(measured(Path(name)), indent=1))
        case [] | [_, _] as sizes:
            ranks, microbatches = map(int, sizes or (64, 512))
            plan = compile_file(SCHEDULE, ranks=ranks, microbatches=microbatches)
            with tempfile.TemporaryDirectory() as folder:
                page = Path(folder) / "page.html"
                page.write_text(draw(plan, "html"), "utf-8")
                print(json.dumps(measured(page), indent=1))
        case _:
            sys.exit(__doc__)


def measured(page: Path) -> dict[str, Any]:
    """All figures of a page."""
    with Browser(1440, 900) as browser:
        browser.open(page)
        browser.settle()
        paint = browser.evaluate(
            'performance.getEntriesByName("first-contentful-paint")[0].startTime'
        )
        found = {"paint": paint, "drawn": browser.evaluate(DRAWN)}
        browser.evaluate(LISTEN)
        left, top, width, height = browser.evaluate(PLACE)

        def at(across: float, down: float) -> tuple[float, float]:
            return left + across * width, top + down * height

        def follow(name: str, many: int) -> None:
            times = browser.evaluate("took.splice(0)")
            touched = browser.evaluate("globalThis.stretto?.chart.touched ?? null")
            found[name] = {
                "median": median(times),
                "most": max(times),
                "events": len(times),
                "touched": touched,
            }
            assert len(times) >= many // 2, (name, len(times))

        for k in range(60):
            browser.mouse("mouseMoved", *at(0.1 + k / 100, 0.05 + k / 70))
            browser.settle()
        follow("hover", 60)
        found["hover"]["touched"] = browser.evaluate("globalThis.stretto?.overlay.touched ?? null")
        for k in range(24):
            more = {"deltaX": 0, "deltaY": -90 if k < 16 else 90}
            browser.mouse("mouseWheel", *at(0.4, 0.5), **more)
            browser.settle()
        follow("zoom", 24)
        browser.mouse("mousePressed", *at(0.6, 0.5), button="left", clickCount=1)
        for k in range(40):
            browser.mouse("mouseMoved", *at(0.6 - k / 100, 0.5), button="left", buttons=1)
            browser.settle()
        browser.mouse("mouseReleased", *at(0.2, 0.5), button="left", clickCount=1)
        follow("pan", 40)
    figures: dict[str, Any] = rounded(found)
    return figures


def rounded(found: Any) -> Any:
    """Milliseconds to a tenth."""
    if isinstance(found, dict):
        return {key: rounded(value) for key, value in found.items()}
    return round(found, 1) if isinstance(found, float) else found


if __name__ == "__main__":
    main()
