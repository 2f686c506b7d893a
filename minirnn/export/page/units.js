// ---------------------------------------------------------------------------------------------------- the chosen unit

const first = json.ranking?.[0];
const chosen = first
  ? { layer: first.layer, value: first.value, unit: first.unit }
  : { layer: Math.max(0, layers.length - 1), value: layers.at(-1)?.values[0], unit: 0 };
const STEPS = [1, 1.5, 2, 3, 4, 5, 6, 8, 10]; // at which scales end, times a power of ten
const CELL_LIMIT = 3;
let states = []; // after each symbol or word that is shown
let spans = []; // the element that is coloured for each of them
let boxes = []; // the element that the cursor marks
let cursor = -1;
let scale = { middle: 0, limit: 1 };

const valuesAt = (n) => states[n].values[chosen.layer][chosen.value];
const isCellState = () => family === "lstm" && chosen.value === "c";
const gatesOf = (layer) => layers[layer].values.filter((name) => layers[layer].activations[name] === "sigmoid");

/**
 * Gates are coloured from 0 over 0.5 to 1, anything else from -limit to limit, the next round number above all values.
 * c of an LSTM may be large: where nearly all of its values have one sign, the colours span just these.
 */
function scaleOf() {
  if (gatesOf(chosen.layer).includes(chosen.value)) return { middle: 0.5, limit: 0.5 };
  let lowest = 0, highest = 0.01;
  for (let n = 0; n < states.length; n++) {
    const value = valuesAt(n)[chosen.unit];
    lowest = Math.min(lowest, value);
    highest = Math.max(highest, value);
  }
  const most = Math.max(-lowest, highest);
  if (isCellState() && most > CELL_LIMIT && Math.min(-lowest, highest) < most / 5) {
    return { middle: (lowest + highest) / 2, limit: (highest - lowest) / 2 };
  }
  const power = 10 ** Math.floor(Math.log10(most) + 1e-9);
  return { middle: 0, limit: STEPS.map((s) => s * power).find((s) => s >= most * (1 - 1e-6)) ?? most };
}

/** The scale for many units at once: c of an LSTM has the full colour from 3 on, for its output depends on tanh c. */
const sharedScale = () => (isCellState() ? { middle: 0, limit: CELL_LIMIT } : scale);

function colour(value, { middle, limit } = scale) {
  const x = Math.max(-1, Math.min(1, (value - middle) / limit)) || 0;
  return `color-mix(in oklab, var(${x < 0 ? "--low" : "--high"}) ${Math.abs(100 * x).toFixed(1)}%, var(--middle))`;
}

/** Colours what is shown, from the given place on, or all of it where the scale has changed. */
function paint(from = 0) {
  const before = scale;
  scale = scaleOf();
  if (before.limit !== scale.limit || before.middle !== scale.middle) from = 0;
  for (let n = from; n < spans.length; n++) spans[n].style.setProperty("--a", colour(valuesAt(n)[chosen.unit]));
  const digits = Math.max(0, 1 - Math.floor(Math.log10(scale.limit)));
  $("low").textContent = fixed(scale.middle - scale.limit, digits);
  $("high").textContent = fixed(scale.middle + scale.limit, digits);
}

/** Shows another unit; what does not exist becomes the nearest that does. */
function choose(change) {
  const before = { ...chosen };
  Object.assign(chosen, change);
  const layer = layers[chosen.layer];
  if (!layer.values.includes(chosen.value)) chosen.value = layer.values[0];
  chosen.unit = Math.max(0, Math.min(layer.size - 1, Math.round(chosen.unit) || 0));
  if (!$("map").childElementCount || before.layer !== chosen.layer) fillLayer(layer);
  for (const key of ["layer", "value", "unit"]) $(key).value = chosen[key];
  $("previous").disabled = chosen.unit === 0;
  $("next").disabled = chosen.unit === layer.size - 1;
  const title = `Unit ${chosen.unit} of ${chosen.value}, layer ${layerName(chosen.layer)}`;
  $("units-title").textContent = title;
  $("picture").setAttribute("aria-label", `The text, coloured by: ${title}`);
  for (const button of $("ranked").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", ["layer", "value", "unit"].every((key) => button.unit[key] === chosen[key]));
  }
  paint();
  showCursor();
  if (before.layer !== chosen.layer) drawGates();
  else markPoints();
  return title;
}

/** The values and the map of units of another layer. */
function fillLayer(layer) {
  $("value").replaceChildren(...layer.values.map((value) => make("option", { value }, valueName(value))));
  $("unit").max = layer.size - 1;
  $("map").replaceChildren(...Array.from({ length: layer.size }, () => make("i")));
}

// --------------------------------------------------------------------------------------------------- under the cursor

function showCursor() {
  const found = states.length > 0;
  for (const box of $("picture").querySelectorAll(".here")) box.classList.remove("here");
  $("facts").replaceChildren();
  $("likely").replaceChildren();
  $("place").textContent = found ? "" : "Nothing yet: the text is empty.";
  $("map").hidden = $("map-title").hidden = !found;
  if (!found) return (writes ? showNext($("likely-title"), model.start()) : undefined);
  cursor = Math.max(0, Math.min(states.length - 1, cursor));
  boxes[cursor].classList.add("here");
  const values = valuesAt(cursor);
  Array.from($("map").children, (square, unit) => {
    square.style.setProperty("--a", colour(values[unit], sharedScale()));
    square.classList.toggle("here", unit === chosen.unit);
  });
  const all = writes ? tokens.length : states.length;
  $("place").append(make("code", {}, named(pieceAt(cursor))), ` ${item} ${number(offset() + cursor + 1)} of ${number(all)}`);
  const facts = [[`${chosen.value} of unit ${chosen.unit}`, fixed(values[chosen.unit])]];
  if (writes) facts.push(["Surprise", `${fixed(surprises[cursor], 2)} nats (p = ${fixed(Math.exp(-surprises[cursor]))})`]);
  for (const gate of gatesOf(chosen.layer)) {
    const [low, high] = saturated(states[cursor].values[chosen.layer][gate]);
    facts.push([`Gate ${gate}`, `closed ${percent(low, 0)}, open ${percent(high, 0)}`]);
  }
  $("facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  if (writes) showNext($("likely-title"), states[cursor]);
  else showLabels();
}

function showNext(title, state) {
  title.textContent = "Most likely to come next";
  showLikely(best(state.logProbs, 5).map((token) => [named(model.symbols[token]), Math.exp(state.logProbs[token])]));
}

/** The places of the largest values, the first of equal ones first. */
function best(values, count) {
  return Array.from(values.keys()).sort((a, b) => values[b] - values[a] || a - b).slice(0, count);
}

function showLikely(rows) {
  $("likely").replaceChildren(...rows.map(([text, probability]) => {
    const bar = make("i");
    bar.style.width = `${100 * probability}%`;
    return make("li", {}, make("code", { title: text }, text), bar, make("span", {}, fixed(probability)));
  }));
}

/** What the cursor shows, as a sentence for screen readers. */
function announce(more = "") {
  const facts = Array.from($("facts").children, (part) => part.textContent).slice(0, writes ? 4 : 2).join(" ");
  const rows = Array.from($("likely").children, (row) => row.textContent).join(", ");
  $("live").textContent = `${more} ${$("place").textContent}. ${facts}. ${$("likely-title").textContent}: ${rows}`;
}

function move(to) {
  cursor = to;
  showCursor();
  boxes[cursor]?.scrollIntoView({ block: "nearest" });
  announce();
}

// ---------------------------------------------------------------------------------------------------- gate saturation

/** The shares of values below 0.1 and above 0.9. */
function saturated(values) {
  let low = 0, high = 0;
  for (const value of values) {
    low += value < 0.1;
    high += value > 0.9;
  }
  return [low / values.length, high / values.length];
}

const svg = (name, attributes, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

/** A plot per gate, as figure 3 of Karpathy, Johnson and Fei-Fei (2015): a point per unit. */
function drawGates() {
  const gates = states.length ? gatesOf(chosen.layer) : [];
  $("saturation").hidden = !gates.length;
  $("gates").replaceChildren(...gates.map((gate) => {
    const { size } = layers[chosen.layer];
    const low = new Float64Array(size), high = new Float64Array(size);
    for (const { values } of states) {
      const row = values[chosen.layer][gate];
      for (let unit = 0; unit < size; unit++) {
        if (row[unit] < 0.1) low[unit]++;
        else if (row[unit] > 0.9) high[unit]++;
      }
    }
    const mean = (counts) => counts.reduce((a, b) => a + b) / size / states.length;
    const share = 100 / states.length;
    const points = Array.from(low, (n, unit) =>
      svg("circle", { class: "point", cx: 24 + share * high[unit], cy: 104 - share * n, r: 2.6 }));
    const text = `closed ${percent(mean(low))}, open ${percent(mean(high))} of the time on average`;
    const plot = svg("svg", { viewBox: "0 0 132 128", role: "img", "aria-label": `Gate ${gate}: ${text}` },
      svg("path", { class: "frame", d: "M24 4V104H124Z" }), ...points,
      svg("text", { x: 24, y: 115 }, "0"), svg("text", { x: 118, y: 115 }, "1"), svg("text", { x: 48, y: 125 }, "share open"),
      svg("text", { x: 15, y: 106 }, "0"), svg("text", { x: 15, y: 10 }, "1"),
      svg("text", { x: -76, y: 9, transform: "rotate(-90)" }, "share closed"));
    return make("figure", {}, make("h3", {}, valueName(gate)), plot, make("figcaption", {}, text));
  }));
  markPoints();
}

function markPoints() {
  for (const plot of $("gates").querySelectorAll("svg")) {
    plot.querySelector(".here")?.classList.remove("here");
    plot.querySelectorAll(".point")[chosen.unit].classList.add("here");
  }
}
