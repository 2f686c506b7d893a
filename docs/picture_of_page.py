"""Make the picture of ``minirnn look`` in the README and the guide from a trained character model, with Chromium.

    python docs/picture_of_page.py RUN TEXT_FILE --measure "inside quotes"

The unit that is shown is the first of the measure in the page's ranking; TEXT_FILE is read from its beginning. Needs
the packages of the extra ``dev`` and Debian's ``chromium`` and ``chromium-driver``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from minirnn import tasks
from minirnn.export.page import look
from minirnn.runs import BEST

STATIC = Path(__file__).parent / "_static"
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


def take(page: Path, measure: str, place: int, output: Path, dark: bool) -> str:
    """Save a picture of the part of the page that shows the first unit of a measure; return the unit's name."""
    options = webdriver.ChromeOptions()
    for argument in (*ARGUMENTS, "--window-size=1180,1400", "--force-device-scale-factor=1.5"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium") or ""
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        browser.get(page.as_uri())
        stop = browser.find_element(By.ID, "stop")
        WebDriverWait(browser, 120).until(
            lambda _: browser.find_elements(By.CLASS_NAME, "s") and not stop.is_displayed()
        )
        path = f"//*[@id='ranked']//h3[text()='{measure}']/following-sibling::ul//button"
        browser.find_element(By.XPATH, path).click()
        symbol = browser.find_elements(By.CLASS_NAME, "s")[place]
        units = browser.find_element(By.ID, "units")
        script = "arguments[0].click(); document.activeElement.blur(); arguments[1].style.padding = '0 1rem 1rem'"
        browser.execute_script(script, symbol, units)
        units.screenshot(str(output))
        return browser.find_element(By.ID, "units-title").text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run of train-char")
    parser.add_argument("text", type=Path, help="a text file")
    parser.add_argument("--measure", default="inside quotes", help="by which the unit is chosen (default: %(default)s)")
    parser.add_argument("--place", type=int, default=100, help="the symbol under the cursor (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=STATIC / "look.png", help="(default: %(default)s)")
    parser.add_argument("--dark", action="store_true", help="in dark mode")
    options = parser.parse_args()
    task = tasks.load(options.run / BEST)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_bytes(look(task, options.text.read_text(encoding="utf-8")))
        print(take(page, options.measure, options.place, options.output, options.dark), "in", options.output)


if __name__ == "__main__":
    main()
