"""What a person does with the page of ``minirnn look`` in a real browser; the numbers in it are those of minirnn."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import perturb
from tiny import TASKS

from minirnn.data.text import Bytes, Characters
from minirnn.data.vocabulary import END
from minirnn.export.page import look
from minirnn.tasks.char import CharConfig, Corpus, TextGenerator

pytest.importorskip("selenium", reason="needs selenium (extra: dev)")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

TEXT = 'He said "to be", (not) so.\n\tAnd went.\n' * 4
HOSTILE = "</script><script>evil=1</script><img src=x onerror='evil=2'>\u202eabc \u05d0\u05d1 \U0001f600\0\tx\n"
HARM, NO_HARM = "return [typeof evil, document.images.length, document.scripts.length]", ["undefined", 0, 3]
INPUTS = {
    "classifier": "a good film , not bad !",
    "tagger": "The dog barks . It sees",
    "translator": "Tom runs . He goes .",
}


def round_weights(task: Any) -> Any:
    """Round all weights to float16, as they are in the page: what it computes then differs by rounding errors only."""
    for parameter in task.model.parameters():
        parameter.data[...] = parameter.data.astype(np.float16)
    return task


def generator(symbols: Characters | Bytes, scale: float = 3.0) -> TextGenerator:
    task = TextGenerator.build(Corpus(symbols.encode(TEXT), symbols), CharConfig(cell="lstm", hidden_size=12, seed=2))
    for parameter in task.model.parameters():
        parameter.data[...] *= scale
    return round_weights(task)


PASTE = """
const clipboardData = new DataTransfer();
clipboardData.setData("text/plain", arguments[1]);
arguments[0].dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
"""


class Page:
    """A page that is open in the browser; ``task``: the model in it."""

    def __init__(self, driver: Any, path: Path, task: Any) -> None:
        self.driver, self.task, self.url = driver, task, path.as_uri()
        driver.get(self.url)

    def __getitem__(self, name: str) -> Any:
        return self.driver.find_element(By.ID, name)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, holds: Callable[[], Any], seconds: float = 10) -> Any:
        return WebDriverWait(self.driver, seconds, 0.05).until(lambda _: holds())

    def set(self, name: str, value: Any) -> None:
        """Put a value into a control, as pasting does."""
        event = "input" if name == "text" else "change"
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event(arguments[2]))"
        self.run(script, self[name], value, event)

    def show(self, text: str) -> None:
        """Paste a text, and wait until the page has read it."""
        self.set("text", text)
        count = min(2000, self.task.symbols.encode(text).size)
        self.wait(lambda: self.run("return document.querySelectorAll('#picture .s').length") == count)
        self.wait(lambda: not self["stop"].is_displayed())

    def each(self, selector: str, expression: str) -> list[Any]:
        """The value of an expression of JavaScript for each element e."""
        return self.run(f"return Array.from(document.querySelectorAll(arguments[0]), (e) => {expression})", selector)

    def visible(self, selector: str) -> list[Any]:
        return [found for found in self.driver.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()]

    def texts(self, selector: str) -> list[str]:
        return self.each(selector, "e.textContent")

    def numbers(self, selector: str) -> list[float]:
        return [float(text.replace("\u2212", "-")) for text in self.texts(selector)]

    def colours(self) -> np.ndarray:
        """The values of all symbols, as their colours have them."""
        found = self.each("#picture .s", "e.style.getPropertyValue('--a')")
        signed = [re.sub(r".*--(low|high)\) ([\d.]+)%.*", r"\1 \2", colour).split() for colour in found]
        shares = np.array([float(share) * (-1 if end == "low" else 1) for end, share in signed]) / 100
        [low], [high] = self.numbers("#low"), self.numbers("#high")
        return (low + high) / 2 + shares * (high - low) / 2


def check_colours(page: Page, values: np.ndarray) -> None:
    [low], [high] = page.numbers("#low"), page.numbers("#high")
    np.testing.assert_allclose(
        page.colours(), np.clip(values, low, high), atol=0.001 * (high - low) + 0.05 * (low * high > 0)
    )


def values_of(task: TextGenerator, text: str) -> np.ndarray:
    """The states of minirnn after each symbol of a text that the page reads, [T, 2 (h and c), L, H]."""
    state, rows = None, []
    with task.model.evaluating():
        for token in [*task.start(), *task.symbols.encode(text)]:
            _, state = task.model(np.array([[token]]), state)
            rows.append([member.numpy()[:, 0] for member in state])
    return np.array(rows)[1:]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Pages of small models of every kind."""
    folder = tmp_path_factory.mktemp("pages")
    made = {name: round_weights(perturb(TASKS[name].make(TASKS[name].write(folder)))) for name in INPUTS}
    made["translator"].model.head.bias.data[END] = -3  # for a translation of more than a word
    made |= {"char": generator(Characters.of(TEXT + HOSTILE)), "bytes": generator(Bytes(), 6.0)}
    for name, task in made.items():
        (folder / f"{name}.html").write_bytes(look(task, INPUTS.get(name, TEXT), title=f"<i>{name}"))
    return {name: (folder / f"{name}.html", task) for name, task in made.items()}


@pytest.fixture
def opened(browser: Any, made: dict[str, tuple[Path, Any]]) -> Iterator[Callable[[str], Page]]:
    """Open a page; at the end of the test its console must be empty."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.set_window_size(1200, 1400)
    browser.get_log("browser")
    yield lambda name: Page(browser, *made[name])
    assert browser.get_log("browser") == []


@pytest.fixture
def page(opened: Callable[[str], Page]) -> Page:
    page = opened("char")
    page.show(TEXT)
    return page


# ------------------------------------------------------------------------------------------------- character models


def test_typing_recolours_the_text(page: Page) -> None:
    page["text"].clear()
    page["text"].send_keys("to be")
    page.wait(lambda: "".join(page.texts("#picture .s")) == "to be")
    chosen = [page[name].get_attribute("value") for name in ("layer", "value", "unit")]
    layer, unit = int(chosen[0]), int(chosen[2])
    page.set("value", "c")
    before = values_of(page.task, "to be")[:, 1, layer, unit]
    check_colours(page, before)
    page["text"].send_keys(Keys.HOME, "(")
    page.wait(lambda: "".join(page.texts("#picture .s")) == "(to be")
    after = values_of(page.task, "(to be")[:, 1, layer, unit]
    check_colours(page, after)


def test_units_are_chosen_by_arrow_keys_controls_map_and_ranking(page: Page) -> None:
    values = values_of(page.task, TEXT)

    def check(layer: int, unit: int) -> None:
        assert page["units-title"].text == f"Unit {unit} of h, layer {layer + 1}"
        check_colours(page, values[:, 0, layer, unit])

    page.set("layer", 1)
    page.set("value", "h")
    page.set("unit", 4)
    check(1, 4)
    page.run("arguments[0].focus()", page["picture"])
    page["picture"].send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP)
    check(1, 5)
    page["picture"].send_keys(Keys.SHIFT + Keys.ARROW_DOWN + Keys.NULL, Keys.ARROW_DOWN)
    check(1, 11)
    page["previous"].click()
    check(1, 10)
    page["map"].find_elements(By.TAG_NAME, "i")[3].click()
    check(1, 3)
    page.set("layer", 0)
    check(0, 3)
    data = json.loads(page.run("return document.getElementById('model').textContent"))["ranking"]
    buttons = page["ranked"].find_elements(By.TAG_NAME, "button")
    assert len(buttons) == len(data) > 10
    buttons[-1].click()
    last = data[-1]
    assert page["units-title"].text == f"Unit {last['unit']} of {last['value']}, layer {last['layer'] + 1}"
    assert buttons[-1].get_attribute("aria-pressed") == "true"


def test_gates_are_coloured_around_one_half_and_their_saturation_counted(page: Page) -> None:
    page.set("value", "f")
    assert page.numbers(".scale span:not(.ramp):not(#above)")[:2] == [0, 1]
    gates = page.colours()
    assert gates.min() >= 0
    assert gates.max() <= 1
    count = len(TEXT)
    [[x, y]] = page.each("#gates figure:nth-child(2) circle.here", "[e.cx.baseVal.value, e.cy.baseVal.value]")
    assert round((x - 24) / 100 * count) == (gates > 0.9).sum()
    assert round((104 - y) / 100 * count) == (gates < 0.1).sum()


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_cursor_shows_what_the_model_expects_next(page: Page, by: str) -> None:
    score = page.task.score(TEXT)
    for place in (5, 9):
        if by == "mouse":
            symbol = page["picture"].find_elements(By.CLASS_NAME, "s")[place]
            ActionChains(page.driver).move_to_element(symbol).perform()
        else:
            page["picture"].send_keys(Keys.HOME, Keys.ARROW_RIGHT * place)
        expected = list(page.task.predict("\n" + TEXT[: place + 1])["probabilities"].items())[:5]
        signs = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5", "\0": "\\x00", "\u202e": "U+202E"}
        assert page.texts("#likely code") == [signs.get(symbol, symbol) for symbol, _ in expected]
        np.testing.assert_allclose(page.numbers("#likely span"), [p for _, p in expected], atol=0.0006)
        assert f"{place + 1} of {len(TEXT)}" in page["place"].text
        assert f"{score.nats[place]:.2f} nats" in page["facts"].text
        bars = page.each(".s", "parseInt(e.style.getPropertyValue('--s'))")
        np.testing.assert_allclose(bars, np.minimum(100, np.array(score.nats) / 6 * 100), atol=0.6)
    if by == "keyboard":
        assert page.texts("#likely code")[0] in page["live"].get_attribute("textContent")


def write(page: Page, count: int, temperature: float, seed: int = 1) -> str:
    for name, value in {"count": count, "temperature": temperature, "seed": seed}.items():
        page.set(name, value)
    page["write"].click()
    page.wait(lambda: page["status"].text == f"{count} symbols written.", 30)
    return str(page["text"].get_attribute("value"))


@pytest.mark.parametrize("motion", ["", "reduce"])
def test_writing_at_temperature_zero_is_greedy(page: Page, motion: str) -> None:
    features = [{"name": "prefers-reduced-motion", "value": motion}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.show("He")
    expected = page.task.sample("\nHe", 30, temperature=0)
    assert write(page, 30, 0) == "He" + expected
    assert len(page.texts("#picture .s")) == 32


def test_writing_draws_with_the_documented_generator(page: Page) -> None:
    page.show("")
    text, state, temperature = "", 5, 0.7
    for _ in range(25):
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        t = (state ^ state >> 15) * (state | 1) & 0xFFFFFFFF
        t ^= t + ((t ^ t >> 7) * (t | 61) & 0xFFFFFFFF) & 0xFFFFFFFF
        number = (t ^ t >> 14) / 2**32
        probabilities = page.task.predict("\n" + text)["probabilities"]
        symbols = sorted(probabilities)
        weights = np.array([probabilities[symbol] for symbol in symbols]) ** (1 / temperature)
        text += symbols[int(np.searchsorted(np.cumsum(weights) / weights.sum(), number, "right"))]
    assert write(page, 25, temperature, 5) == text


def test_writing_can_be_stopped(page: Page) -> None:
    page.set("count", 100000)
    page["write"].click()
    page.wait(lambda: len(page.texts("#picture .s")) > len(TEXT) + 20)
    page["stop"].click()
    page.wait(lambda: page["write"].is_enabled())
    time.sleep(0.1)
    text = page["text"].get_attribute("value")
    assert text.startswith(TEXT)
    assert len(text) > len(TEXT) + 20
    assert page.run("return document.querySelectorAll('.s').length") == len(text)
    time.sleep(0.2)
    assert page["text"].get_attribute("value") == text


def test_bytes_are_read_and_written(opened: Callable[[str], Page]) -> None:
    page = opened("bytes")
    page.show("n\u00e4h")
    assert page.texts("#picture .s") == ["n", "\\xc3", "\\xa4", "h"]
    expected = page.task.sample("\nn\u00e4h", 12, temperature=0)
    assert write(page, 12, 0) == "n\u00e4h" + expected


# ----------------------------------------------------------------------------------------- texts that mean no good


def test_hostile_text_is_shown_as_text(page: Page) -> None:
    page.show(HOSTILE)
    shown = HOSTILE.replace("\0", "\\x00").replace("\t", "\u21e5\t").replace("\n", "\u21b5\n")
    assert "".join(page.texts("#picture .s")) == shown
    assert page.run(HARM) == NO_HARM
    assert page["above"].is_displayed()  # the direction of the page has not changed
    assert page.run("return getComputedStyle(document.getElementById('picture')).direction") == "ltr"


def test_hostile_vocabulary_and_title_are_text(opened: Callable[[str], Page], tmp_path: Path) -> None:
    page = opened("char")
    assert page.driver.title == "<i>char" == page.driver.find_element(By.TAG_NAME, "h1").text
    task = generator(Characters.of("</script><!--\u2028" + HOSTILE))
    path = tmp_path / "page.html"
    path.write_bytes(look(task, HOSTILE + "</script><!--\u2028", title=HOSTILE))
    other = Page(page.driver, path, task)
    other.wait(lambda: len(other.texts("#picture .s")) > 60)
    assert other.run(HARM) == NO_HARM


@pytest.mark.parametrize("name", INPUTS)
def test_hostile_words_are_text(opened: Callable[[str], Page], name: str) -> None:
    page = opened(name)
    page.set("text", HOSTILE)
    page.wait(lambda: "script" in page.driver.find_element(By.TAG_NAME, "main").text)
    assert page.run(HARM) == NO_HARM


@pytest.mark.parametrize("name", ["char", *INPUTS])
def test_a_megabyte_of_text_does_not_freeze_the_page(opened: Callable[[str], Page], name: str) -> None:
    page = opened(name)
    text = (HOSTILE + "to be good, ") * 12000
    assert len(text.encode()) > 10**6
    page["text"].clear()
    page.run(PASTE, page["text"], text)
    note = "Shown: symbols 1 to 2,000" if name == "char" else "Read: the first "
    page.wait(lambda: note in page[{"char": "range"}.get(name, "status")].text, 60)
    assert page["cut"].is_displayed()
    assert page.run("return document.getElementById('text').value.length") in (199999, 200000)
    assert page.run("return document.querySelectorAll('*').length") < 25000
    if name == "char":
        page.wait(lambda: not page["stop"].is_displayed())
        page["later"].click()
        page.wait(lambda: "symbols 2,001 to 4,000" in page["range"].text)
        known = [c for c in text[:5000] if c in page.task.symbols.characters]
        assert [symbol for symbol in page.texts("#picture .s") if len(symbol) == 1] == [
            c for c in known[2000:4000] if c not in "\0\t\n"
        ]
        page["end"].click()
        page.wait(lambda: "Reading" in page["status"].text)
        page["stop"].click()
        page.wait(lambda: page["status"].text == "Stopped.")
    page.set("text", "to be")
    page.wait(lambda: page.texts("#picture .s") == [*"to be"] if name == "char" else page["status"].text == "")


def test_nothing_can_be_loaded_or_evaluated(browser: Any, made: dict[str, tuple[Path, Any]]) -> None:
    browser.get_log("performance")
    page = Page(browser, *made["char"])
    results = browser.execute_async_script(
        "const done = arguments[0]; const tried = []; new Image().src = 'https://example.org/a.png';"
        "setTimeout(() => { try { eval('1'); tried.push('eval'); } catch (error) { tried.push(error.name); } });"
        "setTimeout(() => fetch('https://example.org/b').then(() => tried.push('fetched'))"
        ".catch((error) => tried.push(error.name)).then(() => done(tried)), 50);"
    )
    assert results == ["EvalError", "TypeError"]
    page.show(TEXT)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    received = [m for m in messages if m["method"] == "Network.responseReceived"]
    assert {url for url in sent if not url.startswith("https://example.org/")} == {page.url}
    assert {m["params"]["response"]["url"] for m in received} == {page.url}
    assert all("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


# ------------------------------------------------------------------------------------ classifier, tagger, translator


@pytest.mark.parametrize("name", ["classifier", "tagger"])
def test_bars_and_table_are_the_probabilities_after_every_word(opened: Callable[[str], Page], name: str) -> None:
    page = opened(name)
    words = page.texts("#picture .s")
    assert words == INPUTS[name].split()
    labels = page.task.labels.names
    page["table"].find_element(By.TAG_NAME, "summary").click()
    page.wait(lambda: page["numbers"].is_displayed() and page.numbers("#numbers td"))
    table = np.array(page.numbers("#numbers td")).reshape(len(words), len(labels))
    if name == "classifier":
        texts = [" ".join(words[: n + 1]) for n in range(len(words))]
        expected = [[one["probabilities"][label] for label in labels] for one in page.task.predict(texts)]
        np.testing.assert_allclose(table, expected, atol=0.0006)
        assert page["answer"].text.startswith(page.task.predict(INPUTS[name])["label"])
    else:
        found = page.task.predict(INPUTS[name])
        np.testing.assert_allclose(table.max(1), found["probabilities"], atol=0.0006)
        assert page.texts(".word small") == found["tags"]
        assert page["answer"].text == " ".join(f"{word}/{tag}" for word, tag in zip(words, found["tags"], strict=True))
    heights = page.each(".stack", "Array.from(e.children, (bar) => parseFloat(bar.style.height))")
    np.testing.assert_allclose(np.sort(heights, 1), np.sort(table, 1) * 100, atol=0.06)
    page["picture"].send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    np.testing.assert_allclose(page.numbers("#likely span"), -np.sort(-table[1])[:8], atol=1e-9)


def test_heat_map_is_the_attention(opened: Callable[[str], Page]) -> None:
    page = opened("translator")
    found = page.task.predict(INPUTS["translator"])
    assert page["answer"].text == found["target"]
    assert page.texts("#heat thead th") == [token.replace("\uffed", "") for token in found["source_tokens"]]
    assert page.texts("#heat tbody th") == [token.replace("\uffed", "") for token in found["tokens"]]
    expected = np.array(found["attention"])[: len(found["tokens"])]
    cells = page["heat"].find_elements(By.CSS_SELECTOR, "tbody td")
    values = np.array([float(cell.get_attribute("title").split()[-1]) for cell in cells]).reshape(expected.shape)
    np.testing.assert_allclose(values, expected, atol=0.0007)
    shares = [re.search(r"([\d.]+)%", cell.get_attribute("style")) for cell in cells]
    np.testing.assert_allclose([float(share[1]) for share in shares], expected.ravel() * 100, atol=0.1)
    ActionChains(page.driver).move_to_element(cells[1]).perform()
    assert page["weight"].text == cells[1].get_attribute("title")
    page.run("arguments[0].focus()", cells[0])
    ActionChains(page.driver).send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT).perform()
    assert page["weight"].text == cells[expected.shape[1] + 1].get_attribute("title")
    page.set("text", "")
    page.wait(lambda: not page["attention"].is_displayed())


# ------------------------------------------------------------------------------------------------------ accessibility

CONTRAST = """
const lightness = (colour) => {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = Array.from(canvas.getImageData(0, 0, 1, 1).data, (x) => x / 255).map(
    (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (; element; element = element.parentElement) {
    const style = getComputedStyle(element);
    if (element.classList.contains("s") && style.getPropertyValue("--a")) return null;
    if (!/rgba\\(.*, 0\\)/.test(style.backgroundColor)) return style.backgroundColor;
  }
};
const root = getComputedStyle(document.documentElement), found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility() || /SCRIPT|OPTION/.test(element.tagName)) continue;
  if (element.closest(":disabled")) continue;
  const below = behind(element);
  const ends = ["--low", "--middle", "--high"].map((name) => root.getPropertyValue(name));
  for (const background of below ? [below] : ends) {
    const [a, b] = [lightness(getComputedStyle(element).color), lightness(background)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.outerHTML.slice(0, 80)]);
  }
}
return found.sort((a, b) => a[0] - b[0]);
"""


@pytest.mark.parametrize("name", ["char", *INPUTS])
def test_page_is_accessible(opened: Callable[[str], Page], name: str) -> None:
    page = opened(name)
    run = page.driver.execute_cdp_cmd
    try:
        run("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True})
        assert page.run("return document.documentElement.scrollWidth") <= 360
    finally:
        run("Emulation.clearDeviceMetricsOverride", {})
    for scheme in ("light", "dark"):
        run("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        contrasts = page.run(CONTRAST)
        assert len(contrasts) > 10
        assert contrasts[0][0] >= 4.5, contrasts[:5]
    controls = page.visible("input, select, textarea, button, #picture")
    assert all(control.accessible_name for control in controls)
    reached = set()
    page.run("document.activeElement.blur()")
    for _ in range(len(controls) + 12):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        active = page.driver.switch_to.active_element
        reached.add(active)
        if active.tag_name != "body":
            assert page.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert {control for control in controls if control.is_enabled()} <= reached
    levels = [int(heading.tag_name[1]) for heading in page.visible("h1, h2, h3, h4")]
    assert [levels[0], levels.count(1)] == [1, 1]
    assert max(np.diff(levels)) <= 1
    assert page.run("return document.documentElement.lang") == "en"
