// --------------------------------------------------------------------------------- a character model reads and writes

const PASSAGE = 2000; // symbols that are shown at once, whose states are kept
const SLICE = 20; // milliseconds of work between two chances for the browser to answer
const FULL = 6; // nats of surprise for a bar of full height

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
  const strange = new Set(unknown.slice(0, 1000).map((at) => named(String.fromCodePoint($("text").value.codePointAt(at)))));
  const left = `${plural(unknown.length, "character")} (${[...strange].slice(0, 20).join(" ")})`;
  busy(true);
  if (!(await readPassage(mine))) return;
  busy(false);
  say(unknown.length ? `Left out, because the model does not know them: ${left}.` : "");
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
  if (isControl(piece)) span.append(make("span", { className: "sign" }, named(piece)), /[\n\t]/.test(piece) ? piece : "");
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
    if (cursor < 0) {
      cursor = Math.min(20, states.length - 1);
      showCursor();
    }
    await pause();
    if (mine !== job) return false;
  }
  if (states.length === PASSAGE) starts[passage + 1] = before();
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
  const shown = `${number(offset() + 1)} to ${number(offset() + states.length)} of ${number(tokens.length)}`;
  $("range").textContent = `Shown: symbols ${shown}`;
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
  const decoder = json.bytes && new TextDecoder();
  const decode = (token) => (decoder ? decoder.decode(Uint8Array.of(token), { stream: true }) : model.symbols[token]);
  let text = $("text").value, copied = text, shownAt = 0, n = 0;
  const copy = () => {
    $("text").value = copied = text;
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
    $("picture").scrollTop = $("picture").scrollHeight;
    await frame();
    if (mine === job && performance.now() - shownAt > 250 && $("text").value === copied) copy();
  }
  if ($("text").value === copied) copy(); // otherwise a person has typed, which ended the writing
  if (mine !== job) return;
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
