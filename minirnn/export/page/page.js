// ------------------------------------------------------------------------------------------------------- the controls

function keys(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const steps = event.shiftKey ? 10 : 1;
  const { unit } = chosen;
  const act = {
    ArrowUp: () => announce(choose({ unit: unit - steps })),
    ArrowDown: () => announce(choose({ unit: unit + steps })),
    ArrowLeft: () => move(cursor - steps),
    ArrowRight: () => move(cursor + steps),
    Home: () => move(0),
    End: () => move(states.length - 1),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
  document.documentElement.dataset.ready = kind;
}

function point(event) {
  const box = event.target.closest?.(writes ? ".s" : ".word");
  const at = box ? boxes.indexOf(box) : -1;
  if (at < 0 || at === cursor) return;
  cursor = at;
  showCursor();
}

function setUpUnits() {
  $("layer").replaceChildren(...layers.map((layer, value) =>
    make("option", { value }, `${layerName(value)}: ${plural(layer.size, "unit")}`)));
  $("layer").onchange = () => choose({ layer: Number($("layer").value) });
  $("value").onchange = () => choose({ value: $("value").value });
  $("unit").onchange = () => choose({ unit: Number($("unit").value) });
  $("previous").onclick = () => choose({ unit: chosen.unit - 1 });
  $("next").onclick = () => choose({ unit: chosen.unit + 1 });
  $("picture").onkeydown = keys;
  $("picture").onpointerover = point;
  $("picture").onclick = point;
  $("map").onclick = (event) => {
    const unit = Array.from($("map").children).indexOf(event.target);
    if (unit >= 0) choose({ unit });
  };
  $("map").onpointerover = (event) => {
    const unit = Array.from($("map").children).indexOf(event.target);
    if (unit >= 0 && states.length) event.target.title = `unit ${unit}: ${fixed(valuesAt(cursor)[unit])}`;
  };
  const groups = Map.groupBy ? Map.groupBy(json.ranking ?? [], (one) => one.measure) : new Map();
  $("ranking").hidden = !groups.size;
  $("ranked").replaceChildren(...Array.from(groups, ([measure, found]) => make("div", {}, make("h3", {}, measure),
    make("ul", {}, ...found.map((one) => {
      const label = `Layer ${one.layer + 1}, ${one.value}, unit ${one.unit}`;
      const score = one.measure === "memory" ? number(one.score) : fixed(one.score * one.sign, 2);
      const button = make("button", { type: "button" }, make("span", {}, label), make("span", {}, score));
      button.unit = one;
      button.onclick = () => {
        choose({ layer: one.layer, value: one.value, unit: one.unit });
        $("units").scrollIntoView({ block: "start" });
      };
      return make("li", {}, button);
    })))));
  $("units").hidden = false;
}

/** Shows the paragraphs that are about this kind of model, and what was measured when the page was made. */
function explain() {
  for (const place of document.querySelectorAll("[data-for]")) place.hidden = !place.dataset.for.split(" ").includes(kind);
  for (const place of document.querySelectorAll(".item")) place.textContent = item;
  const { minirnn, weights, differences, output_difference: difference } = json.about;
  const made = [`Made by minirnn ${minirnn}; weights are ${weights}, and the page computes in float32.`];
  if (difference) {
    made.push(`Rounding the weights changes its logits, at random tokens, by at most ${difference.toPrecision(2)}.`);
  }
  if (differences) {
    const { symbols, values, log_probs: logProbs } = differences;
    made.push(`In the first ${plural(symbols, "symbol")} of its text values differ from those of the trained model by at most`);
    made.push(`${values.toPrecision(2)}, and natural logarithms of probabilities by at most ${logProbs.toPrecision(2)}.`);
  }
  $("made").textContent = made.join(" ");
}

/** Pastes a long text; browsers, which make it undoable, take minutes for a megabyte. */
function paste(event) {
  const text = event.clipboardData.getData("text/plain").replace(/\r\n?/g, "\n");
  if (text.length < 20000) return;
  event.preventDefault();
  const { value, selectionStart: start, selectionEnd: end } = $("text");
  $("text").setRangeText(text.slice(0, LIMIT - value.length + end - start), start, end, "end");
  takeText();
}

function summarize() {
  const kinds = { char: "A character model", classifier: "A classifier", tagger: "A tagger", translator: "A translator" };
  $("summary").textContent = `${kinds[kind]} with ${plural(json.about.parameters, "parameter")}: ${json.about.cell}.`;
}

const LIMIT = 200000; // characters in the text area: browsers get slow long before a megabyte
let timer;

/** Reads the text when a person pauses; at once where that takes no time. */
function takeText() {
  const { length } = $("text").value;
  $("cut").hidden = length < LIMIT;
  clearTimeout(timer);
  timer = setTimeout(read, slow || length > 20000 ? 300 : 0);
}

summarize();
explain();
$("text").maxLength = LIMIT;
$("text").value = json.text.slice(0, LIMIT);
$("cut").hidden = json.text.length < LIMIT;
$("stop").onclick = stop;
const read = { char: take, classifier: readText, tagger: readText, translator: translateText }[kind];
$("text").oninput = takeText;
$("text").onpaste = paste;
if (layers.length) setUpUnits();
if (writes) {
  $("writing").hidden = false;
  $("above").append(make("i"), `bar: surprise, 0 to ${FULL} nats`);
  $("write").onclick = write;
  $("earlier").onclick = () => show(passage - 1, ++job);
  $("later").onclick = () => show(passage + 1, ++job);
  $("end").onclick = () => show(passages() - 1, ++job);
} else if (kind === "translator") {
  $("text-label").textContent = "A sentence to translate";
  $("heat").onkeydown = moveCell;
  const point = ({ target }) => target.title && readCell(target);
  for (const type of ["focusin", "pointerover"]) $("heat").addEventListener(type, point);
} else {
  $("scale").before(make("ul", { id: "tags", className: "tags" }));
  $("table").ontoggle = fillTable;
}
if (writes) starts = [model.start()];
if (layers.length) choose({});
read();
