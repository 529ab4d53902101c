"""A headless Chromium for tests that look at pages: where it is, and how ``make test`` comes by one.

Run as a program it sees to it that there is one: the machine's own, else Playwright's build, else, for root on Debian,
the distribution's package. Where none of these can be had, the tests say so and are skipped; not in CI, whose machines
must be able to run them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "no Chromium on this machine: playwright install --with-deps chromium, or a package of the distribution"


def chromium() -> str | None:
    """Return the program of a Chromium; None where there is none."""
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


@contextmanager
def running(program: str) -> Iterator[Browser]:
    """Run a headless Chromium while it lasts."""
    with sync_playwright() as playwright:
        # As root, in a container, Chromium has no sandbox. The pages it opens here are the tests' own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def in_ci() -> bool:
    """Say whether this is CI, where a test that is skipped would go unseen."""
    return os.environ.get("CI", "").lower() in ("1", "true")


def _install() -> None:
    playwright = [sys.executable, "-m", "playwright", "install", "chromium"]
    debian = shutil.which("apt-get") is not None and os.geteuid() == 0
    ways = [playwright, ["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]]
    for way in ways if debian else ways[:1]:
        done = subprocess.run(way, capture_output=True, check=False)
        if done.returncode == 0 and chromium() is not None:
            return
    sys.stderr.write(f"note: {MISSING}\n")


if __name__ == "__main__" and chromium() is None:
    _install()
