"""The picture of the README, from a demo that runs: `python -m tests.e2e.picture URL PASSWORD`."""

import shutil
import sys

from playwright.sync_api import sync_playwright

from tests.e2e.gateway import ROOT

TARGET = ROOT / "docs" / "img" / "tool.png"


def take(url: str, password: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1280, "height": 620})
        page.goto(f"{url}/login")
        page.get_by_label("Email").fill("admin@example.com")
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.goto(f"{url}/tools/notes/whoami")
        page.get_by_role("button", name="Run as").click()
        page.get_by_text("The tool answered").wait_for()
        TARGET.parent.mkdir(exist_ok=True)
        page.screenshot(path=TARGET)
        browser.close()


if __name__ == "__main__":
    take(*sys.argv[1:])
