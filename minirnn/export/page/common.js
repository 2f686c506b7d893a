// What all parts of the page share. This file, units.js, text.js, words.js and page.js, in this order, become one block of
// strict code. Text of a person or of the model gets into the page as text nodes only.

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
const layers = kind === "translator" ? [] : model.layers;
const item = writes ? "symbol" : "word";

// -------------------------------------------------------------------------------------------------- words and numbers

const number = (n) => n.toLocaleString("en");
const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;
const fixed = (x, digits = 3) => (Object.is(Number(x.toFixed(digits)), -0) ? 0 : x).toFixed(digits).replace("-", "\u2212");
const percent = (x, digits = x > 0 && x < 0.01 ? 2 : 1) => `${(100 * x).toFixed(digits)} %`;
const pause = () => new Promise((done) => setTimeout(done));
const frame = () => new Promise((done) => requestAnimationFrame(done));
const isControl = (c) => /^[\0-\x1f\x7f]$/.test(c);

/** A symbol as it is named in a list: white space and characters that cannot be seen have a sign. */
function named(text) {
  const signs = { "\uffed": "", " ": "\u2423", "\n": "\u21b5", "\t": "\u21e5", "\u00a0": "\u237d" }; // U+FFED: in tokens
  const hex = (c, digits) => c.codePointAt(0).toString(16).padStart(digits, "0");
  const hidden = (c) => (isControl(c) ? `\\x${hex(c, 2)}` : /[\p{Cf}\p{Cs}]/u.test(c) ? `U+${hex(c, 4).toUpperCase()}` : c);
  return Array.from(text, (c) => signs[c] ?? hidden(c)).join("");
}

/** A layer has a number, and two of them one number where they read in different directions. */
function layerName(n) {
  const { direction } = layers[n];
  return direction ? `${Math.floor(n / 2) + 1} ${direction}` : `${n + 1}`;
}

const family = /^(?:\w+_)?(lstm|gru)\b/.exec(json.about.cell)?.[1];

function valueName(value) {
  const name = NAMES[value] ?? GATES[family]?.[value];
  return name ? `${value}: ${name}` : value;
}
