"""A real Chromium without a window, driven over the DevTools protocol through two pipes: no
driver package, no port.

Protocol: https://chromedevtools.github.io/devtools-protocol/. With `--remote-debugging-pipe` the
browser reads commands from file descriptor 3 and writes answers and events to 4, each a JSON text
followed by a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT_S = 60.0
"""For one command or one expected change of the page; a cold browser on two busy cores is slow."""

# What `press` needs to know of a key besides its name.
KEYS = {
    "Enter": ("Enter", 13, "\r"), "Tab": ("Tab", 9, ""), "Escape": ("Escape", 27, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""), "ArrowUp": ("ArrowUp", 38, ""), "ArrowDown": ("ArrowDown", 40, ""),
    "End": ("End", 35, ""),
}  # fmt: skip


def executable() -> str | None:
    """POOLRT_CHROMIUM, or the first browser of its kind on the path."""
    named = os.environ.get("POOLRT_CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One browser with one tab. Every message of its console is kept in `console`, uncaught errors
    and refused loads included."""

    def __init__(self, program: str, profile: Path) -> None:
        profile.mkdir(parents=True, exist_ok=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
            "--no-default-browser-check",
            "--remote-debugging-pipe", f"--user-data-dir={profile}",
        ]  # fmt: skip
        # The browser wants its pipes as 3 and 4; the shell puts them there whatever numbers we got.
        place = f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", place, "bash", program, *flags, "about:blank"],
            pass_fds=(to_browser, from_browser), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.console: list[str] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One protocol command, waited for."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _next(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"chromium did not answer {what} within {TIMEOUT_S:g} s"
            got = os.read(self._read, 1 << 20)
            assert got, "chromium ended"
            self._buffer += got
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled":
                self.console.append(
                    " ".join(str(part.get("value", part.get("description"))) for part in params["args"])
                )
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.console.append(details.get("exception", {}).get("description", details["text"]))
            case "Log.entryAdded":
                self.console.append(params["entry"]["text"])
            case _:
                pass

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """The JSON value of an expression, promises waited for. A script that throws is an AssertionError."""
        made = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in made, f"{script}: {made['exceptionDetails']}"
        return made["result"].get("value")

    def until(self, claim: str) -> Any:
        """Waits for a JavaScript expression to become true."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (value := self.evaluate(claim)):
            assert time.monotonic() < deadline, (
                f"{claim} did not become true; console: {self.console}; page: {self.text('body')[:2000]}"
            )
            time.sleep(0.02)
        return value

    def text(self, selector: str) -> str:
        return self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def fill(self, selector: str, value: str) -> None:
        """Replaces a field's text by typing, as a person would."""
        self.evaluate(
            f"(() => {{ const field = document.querySelector({json.dumps(selector)}); "
            "field.focus(); field.select(); })()"
        )
        self.call("Input.insertText", text=value)

    def choose(self, selector: str, value: str) -> None:
        place, chosen = json.dumps(selector), json.dumps(value)
        self.evaluate(
            f"(() => {{ const list = document.querySelector({place}); list.value = {chosen};"
            " list.dispatchEvent(new Event('change', { bubbles: true })); }})()".replace("}}", "}")
        )

    def click(self, selector: str) -> None:
        """A real click in the middle of the element; fails when something else covers it."""
        place = self.evaluate(
            f"(() => {{ const element = document.querySelector({json.dumps(selector)}); "
            "element.scrollIntoView({ block: 'center' }); const box = element.getBoundingClientRect(); "
            "const x = box.x + box.width / 2, y = box.y + box.height / 2; const hit = "
            "document.elementFromPoint(x, y); return { x, y, free: element.contains(hit) }; })()"
        )
        assert place["free"], f"{selector} is covered by another element"
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=place["x"], y=place["y"], button="left", clickCount=1
            )

    def files(self, selector: str, *paths: Path) -> None:
        """Chooses files in a file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        field = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=field, files=[str(path) for path in paths])

    def press(self, key: str, *, control: bool = False) -> None:
        code, number, text = KEYS[key]
        about = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": 2 if control else 0}
        self.call(
            "Input.dispatchKeyEvent",
            type="keyDown" if text else "rawKeyDown",
            text="" if control else text,
            **about,
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def size(self, width: int, height: int, *, phone: bool = False, scale: float = 1.0) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )

    def prefer(self, colours: str) -> None:
        """`light` or `dark`, as set in the operating system."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": colours}])

    def screenshot(self, path: Path) -> None:
        """The whole page, also what stands below the window."""
        made = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(made["data"]))

    def close(self) -> None:
        try:
            self._session = None
            self.call("Browser.close")
        except (AssertionError, OSError):
            self._process.kill()
        self._process.wait(TIMEOUT_S)
        os.close(self._write)
        os.close(self._read)

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
