"""The page of ``minirnn look`` for models of 2 x 256 units: time to make, size, symbols per second in Chromium.

    python benchmarks/page.py [CELL ...]

Models are untrained, with 97 symbols. The page is made from a text of 2,000 symbols; the browser, without a window,
reads them three times, and the fastest counts. Needs selenium (extra: dev), chromium and chromedriver.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver

from minirnn.data.text import Characters
from minirnn.export.page import contents, render
from minirnn.models import CharLM
from minirnn.tasks.char import TextGenerator

SYMBOLS = "\n\t" + "".join(map(chr, range(32, 127)))
SCRIPT = """
const json = JSON.parse(document.getElementById("model").textContent);
let start = performance.now(), fastest = Infinity;
const model = makeModel(json), load = performance.now() - start, {tokens} = model.encode(json.text);
for (let n = 0; n < 3; n++) {
  let state = model.start();
  start = performance.now();
  for (const token of tokens) state = model.step(state, token);
  fastest = Math.min(fastest, performance.now() - start);
}
return [load, tokens.length / fastest * 1000];
"""


def open_browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def main() -> None:
    text = TextGenerator(CharLM(len(SYMBOLS), 8), Characters.of(SYMBOLS)).sample(length=2000, seed=0)
    browser = open_browser()
    heads = ["cell", "page made in", "size", "loaded in", "symbols per second", "rounding changes values by"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    with tempfile.TemporaryDirectory() as folder:
        for cell in sys.argv[1:] or ["lstm", "gru", "rnn", "layer_norm_lstm"]:
            task = TextGenerator(CharLM(len(SYMBOLS), 256, 2, cell), Characters.of(SYMBOLS))
            began = time.perf_counter()
            made = contents(task, text)
            data = render(made, cell)
            seconds = time.perf_counter() - began
            file = Path(folder, f"{cell}.html")
            file.write_bytes(data)
            browser.get(file.as_uri())
            load, speed = browser.execute_script(SCRIPT)
            difference = made["about"]["differences"]["values"]
            size = f"{len(data) / 1e6:.2f} MB"
            print(
                f"| {cell} | {seconds:.2f} s | {size} | {load:.0f} ms | {speed:,.0f} | {difference:.1e} |", flush=True
            )
    browser.quit()


if __name__ == "__main__":
    main()
