"""A Chromium without a window, driven through its debugging pipe: for tests and benchmarks of the
page that `stretto show --format html` writes. Nothing of it touches the network, and it ends with
the `with` that began it.

The protocol: https://chromedevtools.github.io/devtools-protocol/ (messages are JSON, each ended by
a zero byte; read from descriptor 3, written to descriptor 4).
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from base64 import b64decode
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

BEGIN = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 10) for word in sys.argv[1:3]]
for number, pipe in enumerate(pipes, 3):
    os.dup2(pipe, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
DEFICIENCIES = ("none", "protanopia", "deuteranopia", "tritanopia")


def executable() -> str | None:
    """The browser's path, or None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class BrowserError(RuntimeError):
    """The browser said no, or nothing in time."""


class Browser:
    """One window of `width` by `height` CSS pixels, with `dots` device pixels to each of them."""

    def __init__(self, width: int = 1440, height: int = 900, dots: float = 1, seconds: float = 60):
        self.size = width, height, dots
        self.seconds = seconds
        self.events: list[dict[str, Any]] = []
        self.number = 0
        self.session = ""
        self.rest = b""

    def __enter__(self) -> Self:
        """Start it. Raises `BrowserError` where there is none, or it does not answer."""
        path = executable()
        if path is None:
            raise BrowserError("no Chromium is installed")
        self.folder = tempfile.mkdtemp(prefix="stretto-browser-")
        theirs_in, self.write = os.pipe()
        self.read, theirs_out = os.pipe()
        words = [path, *FLAGS, f"--user-data-dir={self.folder}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGIN, str(theirs_in), str(theirs_out), *words],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            target = self("Target.createTarget", url="about:blank")["targetId"]
            attached = self("Target.attachToTarget", targetId=target, flatten=True)
            self.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self(f"{domain}.enable")
            width, height, dots = self.size
            self(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=dots,
                mobile=False,
            )
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it with all its processes."""
        self.close()

    def close(self) -> None:
        """End it with all its processes, and remove what it wrote."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.write)
        os.close(self.read)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------ the protocol

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self.number += 1
        asked: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            asked["sessionId"] = self.session
        os.write(self.write, json.dumps(asked).encode() + b"\0")
        until = monotonic() + self.seconds
        while True:
            message = self._next(until)
            if message.get("id") == self.number:
                if "error" in message:
                    raise BrowserError(f"{method}: {message['error']['message']}")
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.read], [], [], max(0.0, until - monotonic()))
            data = os.read(self.read, 1 << 20) if ready else b""
            if not data:
                raise BrowserError("the browser has ended" if ready else "no answer in time")
            self.rest += data
        line, self.rest = self.rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    # ------------------------------------------------------------------ what is done in it

    def open(self, path: Path) -> None:
        """Open a file, and wait until it is loaded."""
        seen = len(self.events)
        self("Page.navigate", url=path.resolve().as_uri())
        until = monotonic() + self.seconds
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events[seen:]):
            self.events.append(self._next(until))

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; a promise is waited for. Raises `BrowserError`
        with what it throws."""
        found = self(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise BrowserError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.evaluate(
            "new Promise((done) => requestAnimationFrame(() => "
            "requestAnimationFrame(() => setTimeout(done, 60))))"
        )

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A pointer's event at CSS pixels of the page: `mouseMoved`, `mousePressed`, …"""
        self("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x: float, y: float) -> None:
        """Press and let go."""
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def key(self, key: str) -> None:
        """Press a key."""
        text = key if len(key) == 1 else ""
        self("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self("Input.dispatchKeyEvent", type="keyUp", key=key)

    def look(self, *, dark: bool = False, deficiency: str = "none") -> None:
        """Dark or light, and as eyes see it that do not tell all colours."""
        scheme = "dark" if dark else "light"
        self(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self("Emulation.setEmulatedVisionDeficiency", type=deficiency)

    def picture(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        path.write_bytes(b64decode(self("Page.captureScreenshot", format="png")["data"]))

    def complaints(self, since: int = 0) -> list[str]:
        """What the page threw, and what its policy refused, from so many events on."""
        found = []
        for event in self.events[since:]:
            if event.get("method") == "Runtime.exceptionThrown":
                details = event["params"]["exceptionDetails"]
                found.append(details.get("exception", {}).get("description", details["text"]))
            if event.get("method") == "Log.entryAdded":
                found.append(event["params"]["entry"]["text"])
        return found
