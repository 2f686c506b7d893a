"use strict";
/* The page of minirnn look: what a person sees of the model that engine.js runs. All text of the model and of the person gets
   into the page as text nodes. */
(() => {
  const PASSAGE = 2000; // symbols that are shown at once, whose states are kept
  const SLICE = 20; // milliseconds of work between two chances for the browser to answer
  const PATIENCE = 250; // milliseconds that reading a text in one go may take
  const FULL = 6; // nats of surprise for a bar of full height
  const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"]; // Okabe and Ito 2008
  const OTHER = "#8a867c";
  const STEPS = [1, 1.5, 2, 3, 4, 5, 6, 8, 10]; // at which scales end, times a power of ten
  const NAMES = { h: "hidden state", c: "cell state" };
  const GATES = {
    lstm: { i: "input gate", f: "forget gate", g: "candidate", o: "output gate" },
    gru: { r: "reset gate", z: "update gate", n: "candidate" },
  };

  const $ = (id) => document.getElementById(id);

  /** An element with properties (or attributes, where it has no such property) and children; strings become text. */
  function make(name, properties = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key in element) element[key] = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }

  function fail(error) {
    $("failure").textContent = `The model in this page cannot be run: ${error.message}`;
    $("failure").hidden = false;
    throw error;
  }

  let json, model;
  try {
    json = JSON.parse($("model").textContent);
    model = makeModel(json);
  } catch (error) {
    fail(error);
  }
  const kind = model.kind;
  const writes = kind === "char";
  const layers = model.layers ?? [];
  const unitOfText = writes ? "symbol" : "word";

  // ------------------------------------------------------------------------------------------------- words and numbers

  const number = (n) => n.toLocaleString("en");
  const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;
  const fixed = (x, digits = 3) => (Object.is(Number(x.toFixed(digits)), -0) ? 0 : x).toFixed(digits).replace("-", "\u2212");
  const percent = (x, digits = x > 0 && x < 0.01 ? 2 : 1) => `${(100 * x).toFixed(digits)} %`;
  const pause = () => new Promise((done) => setTimeout(done));
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const isControl = (code) => code < 32 || code === 127;
  const sign = (code) => String.fromCharCode(code === 127 ? 0x2421 : 0x2400 + code);

  /** A symbol as it is named in a list: white space and control characters have a sign. */
  function named(text) {
    const signs = { " ": "\u2423", "\n": "\u21b5", "\t": "\u21e5", "\u00a0": "\u237d" };
    return Array.from(text, (c) => signs[c] ?? (isControl(c.charCodeAt(0)) ? sign(c.charCodeAt(0)) : c)).join("");
  }

  function valueName(layer, value) {
    const family = /slstm/.test(layer.cell ?? "") ? {} : (GATES[/lstm|gru/.exec(layer.cell ?? "")?.[0]] ?? {});
    const name = NAMES[value] ?? family[value];
    return name ? `${value}: ${name}` : value;
  }

  // ------------------------------------------------------------------------------------------------ the chosen unit

  const first = json.ranking?.[0];
  const chosen = first
    ? { layer: first.layer, value: first.value, unit: first.unit }
    : { layer: Math.max(0, layers.length - 1), value: layers.at(-1)?.values[0], unit: 0 };
  let states = []; // after each symbol or word that is shown
  let spans = []; // the element that is coloured for each of them
  let boxes = []; // the element that the cursor marks
  let cursor = -1;
  let scale = { middle: 0, limit: 1 };

  const valuesAt = (n) => states[n].values[chosen.layer][chosen.value];
  const gatesOf = (layer) => layers[layer].gates ?? [];

  /** Gates are coloured from 0 over 0.5 to 1, anything else from -limit to limit, the next round number above all values. */
  function scaleOf(from = 0) {
    if (gatesOf(chosen.layer).includes(chosen.value)) return { middle: 0.5, limit: 0.5 };
    let most = from ? scale.limit : 0.01;
    for (let n = from; n < states.length; n++) most = Math.max(most, Math.abs(valuesAt(n)[chosen.unit]));
    const power = 10 ** Math.floor(Math.log10(most) + 1e-9);
    return { middle: 0, limit: STEPS.map((s) => s * power).find((s) => s >= most * (1 - 1e-6)) ?? most };
  }

  function colour(value) {
    const x = Math.max(-1, Math.min(1, (value - scale.middle) / scale.limit)) || 0;
    return `color-mix(in oklab, var(${x < 0 ? "--low" : "--high"}) ${Math.abs(100 * x).toFixed(1)}%, var(--middle))`;
  }

  /** Colours what is shown, from the given place on, or all of it where the scale has changed. */
  function paint(from = 0) {
    const before = scale;
    scale = scaleOf(from);
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
    const title = `Unit ${chosen.unit} of ${chosen.value}, layer ${chosen.layer + 1}`;
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
    $("value").replaceChildren(...layer.values.map((value) => make("option", { value }, valueName(layer, value))));
    $("unit").max = layer.size - 1;
    $("map").replaceChildren(...Array.from({ length: layer.size }, () => make("i")));
  }

  // ---------------------------------------------------------------------------------------------- under the cursor

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
      square.style.setProperty("--a", colour(values[unit]));
      square.classList.toggle("here", unit === chosen.unit);
    });
    const all = writes ? tokens.length : states.length;
    $("place").append(make("code", {}, named(pieceAt(cursor))), ` ${unitOfText} ${number(offset() + cursor + 1)} of ${number(all)}`);
    const facts = [[`${chosen.value} of unit ${chosen.unit}`, fixed(values[chosen.unit])]];
    if (writes) facts.push(["Surprise", `${fixed(surprises[cursor], 2)} nats (probability ${percent(Math.exp(-surprises[cursor]))})`]);
    for (const gate of gatesOf(chosen.layer)) {
      const [low, high] = saturated(states[cursor].values[chosen.layer][gate]);
      facts.push([`Gate ${gate}`, `closed ${percent(low, 0)}, open ${percent(high, 0)} of all`]);
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

  // ---------------------------------------------------------------------------------------------- gate saturation

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
      const points = Array.from(low, (n, unit) =>
        svg("circle", { class: "point", cx: 24 + (100 * high[unit]) / states.length, cy: 104 - (100 * n) / states.length, r: 2.6 }));
      const text = `closed ${percent(mean(low))}, open ${percent(mean(high))} of the time on average`;
      const plot = svg("svg", { viewBox: "0 0 132 128", role: "img", "aria-label": `Gate ${gate}: ${text}` },
        svg("path", { class: "frame", d: "M24 4V104H124Z" }), ...points,
        svg("text", { x: 24, y: 115 }, "0"), svg("text", { x: 118, y: 115 }, "1"), svg("text", { x: 48, y: 125 }, "share open"),
        svg("text", { x: 15, y: 106 }, "0"), svg("text", { x: 15, y: 10 }, "1"),
        svg("text", { x: -76, y: 9, transform: "rotate(-90)" }, "share closed"));
      return make("figure", {}, make("h3", {}, valueName(layers[chosen.layer], gate)), plot, make("figcaption", {}, text));
    }));
    markPoints();
  }

  function markPoints() {
    for (const plot of $("gates").querySelectorAll("svg")) {
      plot.querySelector(".here")?.classList.remove("here");
      plot.querySelectorAll(".point")[chosen.unit].classList.add("here");
    }
  }

  // ------------------------------------------------------------------------------- a character model reads and writes

  let tokens = [], pieces = [], starts = []; // starts[k]: the state before passage k
  let passage = 0;
  let surprises = []; // nats, of each symbol that is shown
  let job = 0; // the number of the work in progress: whoever starts another ends it

  const offset = () => (writes ? passage * PASSAGE : 0);
  const pieceAt = (n) => (writes ? pieces[offset() + n] : reading.words[n]);
  const before = () => states.at(-1) ?? starts[passage];
  const passages = () => Math.max(1, Math.ceil(tokens.length / PASSAGE));

  function say(text) {
    $("status").textContent = text;
  }

  function busy(on) {
    $("stop").hidden = !on;
    $("write").disabled = on;
  }

  /** Takes the text of the text area; what stands before the first difference to the old one is not read again. */
  async function take() {
    const mine = ++job;
    const { tokens: fresh, pieces: texts, unknown } = model.encode($("text").value);
    let same = 0;
    while (same < fresh.length && same < tokens.length && fresh[same] === tokens[same]) same++;
    [tokens, pieces] = [Array.from(fresh), Array.from(texts)];
    if (!starts.length) starts = [model.start()];
    const at = Math.min(Math.floor(same / PASSAGE), passages() - 1);
    starts.length = Math.min(starts.length, at + 1);
    if (at < starts.length && at !== passage) turn(at);
    else cut(Math.max(0, same - offset()));
    const left = unknown.length ? `${plural(unknown.length, "character")} that the model does not know ${unknown.length === 1 ? "is" : "are"} left out.` : "";
    busy(true);
    if (!(await readPassage(mine))) return;
    busy(false);
    say(left);
  }

  /** Forgets what is shown from a place in the passage on. */
  function cut(length) {
    for (const span of spans.splice(length)) span.remove();
    for (const kept of [states, boxes, surprises]) kept.length = Math.min(kept.length, length);
  }

  /** Goes to a passage whose first state is known. */
  function turn(to) {
    cut(0);
    passage = to;
    cursor = 0;
  }

  /** Reads a symbol of the passage and adds it to the picture. */
  function add(token, piece, parent) {
    const last = before();
    const surprise = -last.logProbs[token];
    const span = make("span", { className: "s" });
    const code = piece.length === 1 ? piece.charCodeAt(0) : 0;
    if (piece === "\n") span.append(make("span", { className: "sign" }, "\u21b5"), "\n");
    else if (piece === "\t") span.append(make("span", { className: "sign" }, "\u21e5"), "\t");
    else if (piece.length === 1 && isControl(code)) span.append(make("span", { className: "sign" }, sign(code)));
    else span.append(piece);
    span.style.setProperty("--s", `${Math.min(100, (100 * surprise) / FULL).toFixed(0)}%`);
    states.push(model.step(last, token));
    surprises.push(surprise);
    spans.push(span);
    boxes.push(span);
    parent.append(span);
  }

  /** Reads the rest of the passage, in slices; false if other work has begun meanwhile. */
  async function readPassage(mine) {
    const end = Math.min(tokens.length, offset() + PASSAGE);
    while (offset() + states.length < end) {
      const from = states.length;
      const parent = document.createDocumentFragment();
      const until = performance.now() + SLICE;
      do add(tokens[offset() + states.length], pieces[offset() + states.length], parent);
      while (offset() + states.length < end && performance.now() < until);
      $("picture").append(parent);
      paint(from);
      await pause();
      if (mine !== job) return false;
    }
    if (states.length === PASSAGE) starts[passage + 1] = before();
    if (cursor < 0) cursor = Math.min(20, states.length - 1);
    settle();
    return true;
  }

  /** Shows a passage of the text, however far it is; false if other work has begun meanwhile. */
  async function show(to, mine) {
    busy(true);
    if (to !== passage) {
      if (states.length < PASSAGE && to > passage && !(await readPassage(mine))) return false;
      for (let k = starts.length - 1; k < to; k++) {
        let state = starts[k];
        let until = performance.now() + SLICE;
        for (let n = k * PASSAGE; n < (k + 1) * PASSAGE; n++) {
          state = model.step(state, tokens[n]);
          if (performance.now() < until) continue;
          say(`Reading: ${number(n)} of ${plural(tokens.length, "symbol")}.`);
          await pause();
          if (mine !== job) return false;
          until = performance.now() + SLICE;
        }
        starts[k + 1] = state;
      }
      turn(to);
    }
    if (!(await readPassage(mine))) return false;
    busy(false);
    say("");
    return true;
  }

  /** All that depends on the whole passage. */
  function settle() {
    paint();
    showCursor();
    drawGates();
    const last = passages() - 1;
    $("passages").hidden = !writes || last === 0;
    $("range").textContent = `Shown: symbols ${number(offset() + 1)} to ${number(offset() + states.length)} of ${number(tokens.length)}`;
    $("earlier").disabled = passage === 0;
    $("later").disabled = $("end").disabled = passage >= last;
  }

  /** Mulberry32: state += 0x6d2b79f5; two rounds of xor, shift and multiply; the result divided by 2^32. */
  function mulberry32(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /** The first token at which the cumulated softmax(log p / temperature) exceeds a number from [0, 1). */
  function draw(logProbs, temperature, random) {
    const top = best(logProbs, 1)[0];
    if (!(temperature > 0)) return top;
    const weights = Array.from(logProbs, (x) => Math.exp((x - logProbs[top]) / temperature));
    let left = random() * weights.reduce((a, b) => a + b);
    return weights.findIndex((weight) => (left -= weight) < 0) % weights.length;
  }

  async function write() {
    const mine = ++job;
    if (!(await show(passages() - 1, mine))) return;
    busy(true);
    say("Writing.");
    const random = mulberry32(Number($("seed").value));
    const temperature = Number($("temperature").value), count = Number($("count").value);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const decode = model.decoder ? model.decoder() : (token) => model.symbols[token];
    let text = $("text").value, shownAt = 0, n = 0;
    const copy = () => {
      $("text").value = text;
      $("text").scrollTop = $("text").scrollHeight;
      drawGates();
      shownAt = performance.now();
    };
    while (n < count && mine === job) {
      if (states.length === PASSAGE) {
        starts[passage + 1] = before();
        turn(passage + 1);
      }
      const token = draw(before().logProbs, temperature, random);
      tokens.push(token);
      pieces.push(model.symbols[token]);
      text += decode(token);
      add(token, model.symbols[token], $("picture"));
      n++;
      if (calm && n % 50 && n < count) continue;
      paint(calm ? 0 : states.length - 1);
      cursor = states.length - 1;
      showCursor();
      await frame();
      if (mine === job && performance.now() - shownAt > 250) copy();
    }
    if (mine !== job) return;
    copy();
    settle();
    busy(false);
    say(`${plural(n, "symbol")} written.`);
  }

  function stop() {
    job++;
    busy(false);
    if (writes && tokens.length) {
      settle();
      say("Stopped.");
    }
  }

  // -------------------------------------------------------------------------------- a classifier or tagger reads words

  let reading = { words: [], labels: [], probabilities: [] };
  let limit = 400; // characters that can be read in one go

  /** Calls a function on as much of the text as it can read in a moment; says how much that is. */
  function readable(text, read) {
    let result, length;
    for (length = Math.min(limit, text.length); ; length = Math.min(2 * length, text.length)) {
      const started = performance.now();
      const part = text.slice(0, length);
      const end = length < text.length && /\s\S*$/.exec(part)?.index;
      result = read(end > 0 ? part.slice(0, end) : part.replace(/[\ud800-\udbff]$/, ""));
      if (length === text.length || 4 * (performance.now() - started) > PATIENCE || length >= 20000) break;
    }
    limit = Math.max(400, length);
    say(length < text.length ? `Read: the first ${number(length)} of ${number(text.length)} characters.` : "");
    return result;
  }

  const colourOf = (label) => (label < COLOURS.length ? COLOURS[label] : OTHER);

  function readText() {
    reading = readable($("text").value, (text) => model.read(text));
    const { words, labels, probabilities, result } = reading;
    states = (reading.values ?? []).map((values) => ({ values }));
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
    if (kind === "tagger") $("answer").textContent = words.map((word, n) => `${word}/${labels[best(probabilities[n], 1)[0]]}`).join(" ");
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
    const head = make("tr", {}, make("th", { scope: "col" }, "Word"), ...labels.map((label) => make("th", { scope: "col" }, label)));
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

  // ------------------------------------------------------------------------------------------- a translator and its heat map

  let cell = [0, 0];
  let translation = { source: [], target: [], attention: [] };

  function translateText() {
    translation = readable($("text").value.slice(0, 2000), (text) => model.translate(text));
    const { source, target, attention, text } = translation;
    $("answer").hidden = !target.length;
    $("answer").textContent = text ?? target.join(" ");
    $("attention").hidden = !attention?.length || !source.length;
    $("weight").textContent = "\u00a0";
    if ($("attention").hidden) return $("heat").replaceChildren();
    scale = { middle: 0, limit: 1 };
    const head = make("tr", {}, make("td"), ...source.map((word) => make("th", { scope: "col" }, make("span", { dir: "auto" }, named(word)))));
    const rows = target.map((word, n) => make("tr", {}, make("th", { scope: "row", dir: "auto" }, named(word)),
      ...Array.from(attention[n], (weight, m) => {
        const td = make("td", { tabIndex: n || m ? -1 : 0, title: `${named(word)} \u2190 ${named(source[m])}: ${fixed(weight)}` }, fixed(weight, 2));
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

  // ----------------------------------------------------------------------------------------------------- the controls

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
      make("option", { value }, `${value + 1}${layer.direction ? ` (${layer.direction})` : ""}: ${plural(layer.size, "unit")}`)));
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
        const button = make("button", { type: "button" }, make("span", {}, label), make("span", {}, fixed(one.score, 2)));
        button.unit = one;
        button.onclick = () => {
          choose({ layer: one.layer, value: one.value, unit: one.unit });
          $("units").scrollIntoView({ block: "start" });
        };
        return make("li", {}, button);
      })))));
    $("units").hidden = false;
    for (const place of document.querySelectorAll(".items")) place.textContent = `${unitOfText}s`;
  }

  function explain() {
    const paragraph = (...parts) => make("p", {}, ...parts);
    const link = (href, text) => make("a", { href, rel: "noreferrer" }, text);
    const shared = "The model is in this file and runs in this page: nothing is loaded, and nothing that you type leaves it. ";
    const karpathy = link("https://arxiv.org/abs/1506.02078", "Visualizing and understanding recurrent networks");
    const vis = link("https://arxiv.org/abs/1606.07461", "LSTMVis: a tool for visual analysis of hidden state dynamics in recurrent neural networks");
    const sources = paragraph("The colouring of text by single units and the plots of gate saturation follow A. Karpathy, J. Johnson and L. Fei-Fei, ",
      karpathy, " (2015); looking for units on one's own text follows H. Strobelt, S. Gehrmann, H. Pfister and A. M. Rush, ", vis, " (2018).");
    const units = "The colour is the value of one unit after the network has read the {}: a state between blue (negative) and orange (positive), " +
      "a gate between blue (closed, 0) and orange (open, 1). A unit that is worth looking at changes with something in the text. ";
    const texts = {
      char: units.replace("{}", "symbol") + "The bar over a symbol is its surprise, -ln p in nats: how unlikely the network found this symbol before " +
        "it saw it. Under the cursor are the symbols that it expects next. Writing on draws each symbol from p^(1/temperature), with the " +
        "generator Mulberry32; temperature 0 takes the most likely symbol.",
      classifier: "The bars over each word are the probabilities of the labels after the text up to this word. " + units.replace("{}", "word"),
      tagger: "The bars over each word are the probabilities of its tags. " + units.replace("{}", "word"),
      translator: "The network writes the translation word by word, and at each word weighs the words of the source by attention.",
    };
    const attention = paragraph("The picture is that of D. Bahdanau, K. Cho and Y. Bengio, ",
      link("https://arxiv.org/abs/1409.0473", "Neural machine translation by jointly learning to align and translate"), " (2015).");
    const about = json.about ?? [];
    const facts = typeof about === "string" ? [paragraph(about)] : Array.isArray(about) ? about.map((text) => paragraph(text))
      : [make("dl", {}, ...Object.entries(about).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]))];
    $("about").replaceChildren(paragraph(texts[kind]), paragraph(shared), layers.length ? sources : attention, ...facts);
  }

  function summarize() {
    const kinds = { char: "A character model", classifier: "A classifier", tagger: "A tagger", translator: "A translator" };
    const sizes = [...new Set(layers.map((layer) => number(layer.size)))].join(" and ");
    $("summary").textContent = layers.length ? `${kinds[kind]} with ${plural(layers.length, "layer")} of ${sizes} ${layers[0].cell ?? ""} units.`.replace("  ", " ") : `${kinds[kind]}.`;
  }

  function debounce(act) {
    let timer;
    return () => {
      clearTimeout(timer);
      timer = setTimeout(act, $("text").value.length > 20000 ? 300 : 0);
    };
  }

  summarize();
  explain();
  $("text").value = json.text ?? "";
  $("stop").onclick = stop;
  const act = { char: take, classifier: readText, tagger: readText, translator: translateText }[kind];
  $("text").oninput = debounce(act);
  if (layers.length) setUpUnits();
  if (writes) {
    $("writing").hidden = false;
    $("above").append(make("i"), `bar: surprise, 0 to ${FULL} nats`);
    $("help").textContent = "Point at a symbol, or focus the text and use the keyboard: \u2191 and \u2193 step through the units (with Shift by ten), " +
      "\u2190, \u2192, Home and End move the cursor.";
    $("write").onclick = write;
    $("earlier").onclick = () => show(passage - 1, ++job);
    $("later").onclick = () => show(passage + 1, ++job);
    $("end").onclick = () => show(passages() - 1, ++job);
  } else if (kind === "translator") {
    $("text-label").textContent = "A sentence to translate";
    $("heat").onkeydown = moveCell;
    for (const type of ["focusin", "pointerover"]) {
      $("heat").addEventListener(type, (event) => event.target.tagName === "TD" && event.target.title && readCell(event.target));
    }
  } else {
    $("scale").before(make("ul", { id: "tags", className: "tags" }));
    $("help").textContent = "Above each word: the probabilities of the labels. Behind it: the value of the chosen unit. Point at a word, or focus the text " +
      "and use the keyboard: \u2191 and \u2193 step through the units (with Shift by ten), \u2190, \u2192, Home and End move the cursor.";
    $("table").ontoggle = fillTable;
  }
  if (writes) starts = [model.start()];
  if (layers.length) choose({});
  act();
})();
