"""A browser for tests: the few calls of the WebDriver protocol (W3C) that they need."""

from __future__ import annotations

import base64
import json
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from demo.machines import free_port

# The key under which the protocol hands out elements (W3C WebDriver §12.1).
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class WebDriverError(Exception):
    """The browser refused a command. Says the protocol's error and its message."""


class Browser:
    """Headless Chromium through chromedriver; a context manager that ends both.

    directory: for its profile and its log.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port(["127.0.0.1"])
        self._session = ""

    def __enter__(self) -> Browser:
        with (self._directory / "chromedriver.log").open("wb") as log:
            self._driver = subprocess.Popen(
                ["chromedriver", f"--port={self._port}"],
                stdout=log,
                stderr=log,
                env={"HOME": str(self._directory), "PATH": "/usr/bin:/bin"},
            )
        try:
            self._open()
        except BaseException:
            self._driver.kill()
            self._driver.wait()
            raise
        return self

    def _open(self) -> None:
        options = {
            "args": [
                "--headless=new",
                "--no-sandbox",  # Root's browser has none; it sees this machine's pages only.
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--window-size=1280,900",
                f"--user-data-dir={self._directory / 'profile'}",
            ]
        }
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        until = time.monotonic() + 30
        while True:
            try:
                self._session = self._call("POST", "", wanted)["sessionId"]
                return
            except (ConnectionError, urllib.error.URLError):
                if time.monotonic() > until or self._driver.poll() is not None:
                    raise
                time.sleep(0.1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(10)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        session = f"/{self._session}" if self._session else ""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/session{session}{path}",
            method=method,
            data=None if method != "POST" else json.dumps(body or {}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise WebDriverError(f"{value['error']}: {value['message']}") from None

    def visit(self, url: str) -> None:
        """Go to a page; returns when it is loaded."""
        self._call("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """What the body of a JavaScript function returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def type(self, selector: str, text: str) -> None:
        """Type into the element that a CSS selector finds."""
        element = self._find(selector)
        self._call("POST", f"/element/{element}/clear")
        self._call("POST", f"/element/{element}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click on the element that a CSS selector finds."""
        self._call("POST", f"/element/{self._find(selector)}/click")

    def _find(self, selector: str) -> str:
        self.until(f"return document.querySelector({json.dumps(selector)}) !== null", selector)
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])

    def until(self, script: str, what: str = "", timeout: float = 20) -> Any:
        """The first true value that a script returns. AssertionError, with a picture of the page
        in the directory, if there is none in time."""
        until = time.monotonic() + timeout
        while True:
            try:
                value = self.run(script)
            except WebDriverError:
                value = None  # In the middle of going to another page.
            if value:
                return value
            if time.monotonic() > until:
                self.picture(self._directory / "failed.png")
                raise AssertionError(f"not in time: {what or script}; {self._directory}/failed.png")
            time.sleep(0.05)

    def picture(self, path: Path) -> None:
        """The page as a PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))
