"""Chromium as the tests drive it: over the DevTools protocol, and everything that goes wrong in a page remembered."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-port=0",
)  # fmt: skip
CHECKS = (Path(__file__).parent / "checks.js").read_text()
KEYS = {"Tab": 9, "Enter": 13, "ArrowDown": 40, "ArrowRight": 39}
PATIENCE = 30.0


def program() -> str | None:
    """The path of Chromium, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tab:
    """One page. ``complaints`` are errors, refusals of its policy and dialogs; ``requests`` the addresses it asked."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.complaints: list[str] = []
        self.requests: list[str] = []

    async def listen(self) -> None:
        """Take what the browser says until it is closed."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            else:
                self._see(said["method"], said["params"])

    def _see(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(str(details.get("exception", {}).get("description", details["text"])))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(f"console: {params['args']}")
        elif method == "Page.javascriptDialogOpening" or "ContentSecurityPolicyIssue" in str(params):
            self.complaints.append(f"{method}: {params}")

    async def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE):
            said = await answer
        assert "error" not in said, (method, said)
        return said["result"]

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, (expression[:200], found["exceptionDetails"])
        return found["result"].get("value")

    async def until(self, expression: str) -> Any:
        """The value of the expression as soon as it is true."""
        async with asyncio.timeout(PATIENCE):
            while not (value := await self.evaluate(expression)):  # noqa: ASYNC110 - it happens in the browser
                await asyncio.sleep(0.05)
        return value

    async def screen(self, width: int, height: int, theme: str) -> None:
        """Show the page on a screen of this size, to somebody who likes this theme."""
        phone = width < 500
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        likes = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}  # nothing is measured as it moves
        features = [{"name": name, "value": value} for name, value in likes.items()]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && document.querySelector('main') !== null")
        await self.evaluate(CHECKS)

    async def click(self, selector: str, place: int = 0) -> None:
        """Press the mouse in the middle of the element, where a person would; nothing else may lie over it."""
        x, y = await self.evaluate(f"checks.middle({selector!r}, {place})")
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def press(self, key: str) -> None:
        code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        more = {"text": "\r"} if key == "Enter" else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **code, **more)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    async def type(self, text: str) -> None:
        await self.call("Input.insertText", text=text)

    async def picture(self, path: Path) -> None:
        """The whole page as it is shown, in a PNG file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def browsing(folder: Path) -> AsyncIterator[Tab]:
    """A tab of a browser of its own, with nothing in its profile."""
    path = program()
    assert path is not None
    process = await asyncio.create_subprocess_exec(
        path, *FLAGS, f"--user-data-dir={folder}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session, _connected(session, folder / "DevToolsActivePort") as tab:
            yield tab
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@asynccontextmanager
async def _connected(session: aiohttp.ClientSession, announced: Path) -> AsyncIterator[Tab]:
    async with asyncio.timeout(PATIENCE):
        while not (announced.exists() and len(announced.read_text().split()) == 2):  # noqa: ASYNC110 - the browser writes
            await asyncio.sleep(0.05)
    port = announced.read_text().split()[0]
    async with session.get(f"http://127.0.0.1:{port}/json") as response:
        (page,) = [one for one in await response.json() if one["type"] == "page"]
    async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
        tab = Tab(socket)
        listening = asyncio.get_running_loop().create_task(tab.listen())
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            await tab.call(f"{domain}.enable")
        try:
            yield tab
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
