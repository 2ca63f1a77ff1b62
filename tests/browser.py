"""A browser without a window that tests drive as a user would: keys, mouse, touch, files that are dropped.

It speaks the DevTools protocol over a pipe, so it needs nothing but the browser.
"""

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

PATIENCE = 30  # seconds for the browser to answer, and for a page to show what it should


class Browser:
    """The browser, as a context."""

    def __init__(self, program: str, folder: Path):
        ours, theirs = [], []
        for mine, other in (os.pipe()[::-1], os.pipe()):  # to write to; to read from
            ours.append(mine)
            theirs.append(fcntl.fcntl(other, fcntl.F_DUPFD, 10))  # away from 3 and 4, which the shell gives it
            os.close(other)
        self._to, self._from = ours
        command = ["bash", "-c", f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}', "bash", program, "--headless", "--no-sandbox"]
        command += ["--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={folder}"]
        self._process = subprocess.Popen(command, pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for descriptor in theirs:
            os.close(descriptor)
        self._rest, self._number = b"", 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def open(self, address: str, width: int = 1000, height: int = 800, dark: bool = False, touch: bool = False) -> "Page":
        """A new page, without what others have stored."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        page = Page(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"], context)
        for domain in ("Page", "Runtime", "Log"):
            page.send(f"{domain}.enable")
        page.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        page.send("Emulation.setTouchEmulationEnabled", enabled=touch)
        page.send("Emulation.setFocusEmulationEnabled", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.send("Emulation.setEmulatedMedia", features=[scheme])
        page.send("Page.navigate", url=address)
        page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], PATIENCE)[0], "the browser does not answer"
            more = os.read(self._from, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)


class Page:
    """A page of the browser."""

    def __init__(self, browser: Browser, session: str, context: str):
        self._browser, self._session, self.context = browser, session, context

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.send(method, self._session, **parameters)

    def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression holds."""
        end = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never: {condition}\n{self.run('document.body.innerText')}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)}).textContent")

    def wait_for(self, selector: str, text: str) -> None:
        self.wait(f"document.querySelector({json.dumps(selector)})?.textContent.includes({json.dumps(text)})")

    def visible(self, selector: str) -> bool:
        return self.run(f"document.querySelector({json.dumps(selector)}).checkVisibility()")

    def centre(self, selector: str, index: int = 0) -> dict[str, float]:
        """Where the middle of an element is, which is scrolled into view."""
        return self.run(
            f"(() => {{ const element = document.querySelectorAll({json.dumps(selector)})[{index}];"
            " element.scrollIntoView({block: 'nearest'}); const box = element.getClientRects()[0];"
            " return {x: box.x + box.width / 2, y: box.y + box.height / 2} })()"
        )

    def type(self, selector: str, text: str) -> None:
        """Types at the end of a field, key by key."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        for character in text:
            self.send("Input.insertText", text=character)

    def press(self, key: str, code: int, text: str = "") -> None:
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, text=text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def hover(self, x: float, y: float) -> None:
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str, index: int = 0) -> None:
        place = self.centre(selector, index)
        self.hover(**place)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def tap(self, selector: str, index: int = 0) -> None:
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[self.centre(selector, index)])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def drop(self, *files: Path, until: str = "drop") -> None:
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=300, y=300, data=data)
            if kind == until:
                break

    def download(self, selector: str, folder: Path) -> Path:
        """The file that a click on a link saves."""
        # Of the browser, as the page's own context has a policy of its own.
        self._browser.send(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder), browserContextId=self.context
        )
        before = set(folder.iterdir())
        self.click(selector)
        end = time.monotonic() + PATIENCE
        while not (new := [file for file in set(folder.iterdir()) - before if file.suffix != ".crdownload"]):
            assert time.monotonic() < end, "nothing was saved"
            time.sleep(0.02)
        return new[0]

    def others(self) -> list["Page"]:
        """The pages that this one has opened."""
        found = self._browser.send("Target.getTargets")["targetInfos"]
        opened = [each for each in found if each["browserContextId"] == self.context and each["url"].startswith("blob:")]
        ids = [each["targetId"] for each in opened]
        sessions = [self._browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"] for target in ids]
        return [Page(self._browser, session, self.context) for session in sessions]

    def complaints(self) -> list[str]:
        """Errors and warnings of the page and of its security policy so far, but for answers with an error's status."""
        self.run("0")
        said = [event["params"] for event in self._browser.events if event.get("sessionId") == self._session]
        logged = [x["entry"] for x in said if "entry" in x]
        texts = [x["text"] for x in logged if x["level"] in ("error", "warning") and "the server responded" not in x["text"]]
        return texts + [x["exceptionDetails"]["text"] for x in said if "exceptionDetails" in x]

    def picture(self, file: Path, whole: bool = True) -> None:
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        self._browser.send("Target.disposeBrowserContext", browserContextId=self.context)
