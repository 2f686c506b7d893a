// --------------------------------------------------------------------------------- a classifier or tagger reads words

const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"]; // Okabe and Ito 2008
const OTHER = "#8a867c";

let reading = { words: [], labels: [], probabilities: [] };
const MOST = kind === "translator" ? 400 : 6000; // characters that are read, in a few seconds at most
let slow = false;

/** Calls a function on the beginning of the text, whole words if there are any; says how much that is. */
function readable(text, read) {
  const part = text.slice(0, MOST), end = text.length > MOST ? /\s\S*$/.exec(part)?.index : 0;
  const started = performance.now();
  const result = read(end ? part.slice(0, end) : part);
  slow = performance.now() - started > 50;
  say(text.length > MOST ? `Read: the first ${number(end || MOST)} of ${number(text.length)} characters.` : "");
  return result;
}

const colourOf = (label) => (label < COLOURS.length ? COLOURS[label] : OTHER);

function readText() {
  reading = readable($("text").value, (text) => model.read(text));
  const { words, labels, probabilities, result, spacing } = reading;
  if (spacing > 1) say(`${$("status").textContent} The bars of this long text are computed for one word in ${spacing}.`);
  states = reading.values.map((values) => ({ values }));
  const weights = labels.map((_, label) => probabilities.reduce((sum, row) => sum + row[label], 0));
  const order = best(weights, labels.length); // the labels with colours of their own come first
  const rank = Array.from(labels, (_, label) => order.indexOf(label));
  spans = words.map((word) => make("span", { className: "s", dir: "auto" }, named(word)));
  boxes = words.map((_, n) => {
    const stack = make("span", { className: "stack" });
    for (const label of order) {
      const bar = make("i");
      bar.style.height = `${100 * probabilities[n][label]}%`;
      bar.style.background = colourOf(rank[label]);
      stack.append(bar);
    }
    return make("span", { className: "word" }, stack, spans[n], make("small", {}, labels[best(probabilities[n], 1)[0]]));
  });
  const coloured = order.slice(0, COLOURS.length);
  const keys = coloured.map((label) => [labels[label], colourOf(rank[label])]);
  if (labels.length > coloured.length) keys.push(["other labels", OTHER]);
  $("tags").replaceChildren(...keys.map(([label, background]) => {
    const square = make("i");
    square.style.background = background;
    return make("li", {}, square, label);
  }));
  $("picture").replaceChildren(...boxes);
  $("answer").hidden = !words.length;
  if (kind === "tagger") $("answer").textContent = words.map((word, n) => `${word}/${result[n]}`).join(" ");
  else if (words.length) $("answer").textContent = `${result}, probability ${percent(Math.max(...probabilities.at(-1)))}`;
  cursor = words.length - 1;
  if (layers.length) settle();
  $("table").hidden = !words.length;
  fillTable();
}

/** The numbers of the bars; filled only where the table is open. */
function fillTable() {
  if (!$("table").open) return;
  const { words, labels, probabilities } = reading;
  const head = make("tr", {}, ...["Word", ...labels].map((label) => make("th", { scope: "col" }, label)));
  const rows = words.map((word, n) => make("tr", {}, make("th", { scope: "row" }, named(word)),
    ...Array.from(probabilities[n], (p) => make("td", {}, fixed(p)))));
  $("numbers").replaceChildren(make("caption", { className: "unseen" }, "The probability of each label after each word"),
    make("thead", {}, head), make("tbody", {}, ...rows));
}

function showLabels() {
  const row = reading.probabilities[cursor];
  $("likely-title").textContent = kind === "tagger" ? "Tags of this word" : "Labels after this word";
  showLikely(best(row, 8).map((label) => [reading.labels[label], row[label]]));
}

// -------------------------------------------------------------------------------------- a translator and its heat map

const SIDE = 100; // rows and columns of the heat map, at most
let cell = [0, 0];

function translateText() {
  const { source: words, target, attention, text } = readable($("text").value, (part) => model.translate(part));
  const source = words.slice(0, SIDE);
  if (Math.max(words.length, target.length) > SIDE) say(`${$("status").textContent} The picture shows the first ${SIDE} words.`);
  $("answer").hidden = !source.length;
  $("answer").textContent = target.length ? text : "The translation is empty.";
  $("attention").hidden = !attention?.length;
  $("weight").textContent = "\u00a0";
  if ($("attention").hidden) return $("heat").replaceChildren();
  scale = { middle: 0, limit: 1 };
  const vertical = (word) => make("span", { dir: "auto" }, named(word));
  const head = make("tr", {}, make("td"), ...source.map((word) => make("th", { scope: "col" }, vertical(word))));
  const rows = target.slice(0, SIDE).map((word, n) => make("tr", {}, make("th", { scope: "row", dir: "auto" }, named(word)),
    ...Array.from(attention[n].slice(0, SIDE), (weight, m) => {
      const title = `${named(word)} \u2190 ${named(source[m])}: ${fixed(weight)}`;
      const td = make("td", { tabIndex: n || m ? -1 : 0, title }, fixed(weight, 2));
      td.style.setProperty("--a", colour(weight));
      return td;
    })));
  $("heat").replaceChildren(make("caption", { className: "unseen" }, "Attention: target words in rows, source words in columns"),
    make("thead", {}, head), make("tbody", {}, ...rows));
  cell = [0, 0];
}

/** Says a cell's value; keeps it as the one that the tab key leads to. */
function readCell(td) {
  const place = [td.parentElement.sectionRowIndex, td.cellIndex - 1];
  $("heat").tBodies[0].rows[cell[0]].cells[cell[1] + 1].tabIndex = -1;
  td.tabIndex = 0;
  cell = place;
  $("weight").textContent = td.title;
}

function moveCell(event) {
  const [row, column] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [];
  if (row === undefined) return;
  event.preventDefault();
  const td = $("heat").tBodies[0].rows[cell[0] + row]?.cells[cell[1] + column + 1];
  if (td?.tagName === "TD") td.focus();
}
