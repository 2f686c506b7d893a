// Splits texts into tokens, and runs the models of tasks: makeModel(json) has kind, layers and the methods of its class.
//
// layers: [{size, values, activations, direction}], the values that are recorded in each layer: its states first, then its
// gates after their activation, "sigmoid", "tanh", "relu" or null, which activations holds by name.

// ------------------------------------------------------------------------------------------------------- words

class Tokenizer { // as minirnn.data.tokenize; classes: which characters Python takes for words, marks and white space
  constructor({rule, lower, word, marks, space}) {
    Object.assign(this, {rule, lower});
    this.spaces = new RegExp(`[${space}]+`, "u");
    if (rule !== "word") return;
    this.pattern = new RegExp(`[${word}][${word}${marks}]*(?:['\u2019](?=[${word}]))?|([^${word}${space}]+)`, "gu");
    this.elided = new RegExp(`^[${word}][^]*['\u2019]$`, "u");
  }

  words(text) {
    return text.split(this.spaces).filter(Boolean);
  }

  normalize(text) {
    text = (this.lower ? text.toLowerCase() : text).normalize("NFC");
    return this.words(this.rule === "word" ? text.split(GLUE).join(" ") : text).join(" ");
  }

  split(text) {
    text = this.normalize(text);
    if (this.rule === "space") return this.words(text);
    if (this.rule === "char") return Array.from(text);
    return Array.from(text.matchAll(this.pattern), ({0: token, 1: symbol, index}) => {
      if (symbol === undefined) return token;
      const end = index + token.length, touches = (n) => n >= 0 && n < text.length && text[n] !== " ";
      return (touches(index - 1) ? GLUE : "") + token + (touches(end) ? GLUE : "");
    });
  }

  join(tokens) {
    if (this.rule !== "word") return tokens.join(this.rule === "space" ? " " : "");
    let text = "", touches = true;
    for (const token of tokens) {
      if (!touches && !token.startsWith(GLUE)) text += " ";
      text += strip(token);
      touches = token.endsWith(GLUE) || this.elided.test(token);
    }
    return text;
  }
}

const GLUE = "\uffed";

function strip(token) { // without the marks that say what a symbol touches
  let start = 0, end = token.length;
  while (start < end && token[start] === GLUE) start++;
  while (end > start && token[end - 1] === GLUE) end--;
  return token.slice(start, end);
}

const SPECIALS = ["<pad>", "<start>", "<end>", "<unk>"];
const [PAD, START, END, UNK] = [0, 1, 2, 3];

class Vocabulary {
  constructor(tokens) {
    this.tokens = [...SPECIALS, ...tokens];
    this.numbers = new Map(tokens.map((token, n) => [token, n + SPECIALS.length]));
  }

  encode(tokens) {
    return tokens.map((token) => this.numbers.get(token) ?? UNK);
  }
}

// ------------------------------------------------------------------------------------------------------- models

class CharModel {
  constructor(json, arrays) {
    this.rnn = new Layers(json.network.layers.rnn, "layers.rnn", arrays);
    this.head = [arrays["linear.head.weight"], arrays["linear.head.bias"]];
    Object.assign(this, {layers: this.rnn.described, symbols: json.symbols, bytes: json.bytes});
    this.numbers = new Map(json.symbols.map((symbol, n) => [symbol, n]));
  }

  // {tokens, pieces: the text of each, unknown: indices in text of the characters that the model does not know}
  encode(text) {
    if (this.bytes) {
      const tokens = Int32Array.from(new TextEncoder().encode(text));
      return {tokens, pieces: Array.from(tokens, (token) => this.symbols[token]), unknown: []};
    }
    const tokens = [], pieces = [], unknown = [];
    let at = 0;
    for (const character of text) {
      const token = this.numbers.get(character);
      if (token === undefined) unknown.push(at);
      else {
        tokens.push(token);
        pieces.push(character);
      }
      at += character.length;
    }
    return {tokens: Int32Array.from(tokens), pieces, unknown};
  }

  start() {
    const first = this.bytes ? 10 : (this.numbers.get("\n") ?? 0);
    return this.step({values: this.rnn.start()}, first);
  }

  step(state, token) {
    const values = this.rnn.step(this.rnn.read(token), state.values);
    return {values, logProbs: logSoftmax(product(this.head[0], this.rnn.outputs(values), this.head[1]))};
  }
}

class Pooling { // one vector from the outputs of the steps so far
  constructor(kind, size, linear) {
    Object.assign(this, {kind, linear, count: 0, weight: 0, largest: -Infinity, total: new Float64Array(size)});
  }

  add(y) {
    this.count++;
    if (this.kind === "max") this.total = this.total.map((value, n) => (this.count > 1 ? Math.max(value, y[n]) : y[n]));
    if (this.kind === "mean") y.forEach((value, n) => (this.total[n] += value));
    if (this.kind === "attention") {
      const score = dot(this.linear.score.weight.data, product(this.linear.memory.weight, y, this.linear.memory.bias).map(Math.tanh));
      const largest = Math.max(score, this.largest), kept = Math.exp(this.largest - largest), added = Math.exp(score - largest);
      this.weight = this.weight * kept + added;
      this.total = this.total.map((value, n) => value * kept + added * y[n]);
      this.largest = largest;
    }
  }

  get value() {
    const divisor = {max: 1, mean: Math.max(this.count, 1), attention: this.weight || 1}[this.kind];
    return Float32Array.from(this.total, (value) => value / divisor);
  }
}

const PREFIX_STEPS = 8000; // steps, at most, for the probabilities after every word of a model of two directions

class Classifier {
  constructor(json, arrays) {
    Object.assign(this, {labels: json.labels, maxLength: json.max_length, pooling: json.network.pooling});
    this.rnn = new Layers(json.network.layers.rnn, "layers.rnn", arrays);
    this.layers = this.rnn.described;
    this.linear = readLinear(json.network.linear, arrays);
    [this.tokenizer, this.vocabulary] = [new Tokenizer(json.tokenizer), new Vocabulary(json.vocabulary)];
  }

  tokenize(text) {
    const tokens = this.tokenizer.split(text).slice(0, this.maxLength);
    if (this.tokenizer.rule !== "word") return tokens;
    return tokens.map(strip).map((token) => token.replace(/['\u2019]+$/, "") || token);
  }

  // {words, labels, probabilities: of each label after every word, values: after every word, result: the label}; of a
  // model of two directions probabilities are those of the text up to the word, in a long text of every `spacing`-th word.
  read(text) {
    const words = this.tokenize(text), cache = new Map();
    const tokens = this.vocabulary.encode(words).map((token) => this.rnn.read(token));
    const {outputs, values, final} = this.rnn.run(tokens, cache);
    const found = {words, labels: this.labels, values, probabilities: [], result: null, spacing: 1};
    if (!this.tokenizer.words(text).length) return found;
    const whole = this.probabilities(outputs, final);
    if (this.rnn.bidirectional) {
      found.spacing = Math.max(1, Math.ceil(words.length ** 2 / 2 / PREFIX_STEPS));
      for (let n = 1; n < words.length; n++) {
        const before = found.probabilities[n - 2], due = n === 1 || n % found.spacing === 0;
        const prefix = due && this.rnn.run(tokens.slice(0, n), cache);
        found.probabilities.push(due ? this.probabilities(prefix.outputs, prefix.final) : before);
      }
      if (words.length) found.probabilities.push(whole);
    } else if (this.pooling === "last") {
      const last = this.rnn.rows.length - 1, {output} = this.rnn.rows[last][0];
      found.probabilities = values.map((all) => this.classify(all[last][output]));
    } else {
      const pooled = new Pooling(this.pooling, this.rnn.outputSize, this.linear);
      for (const y of outputs) {
        pooled.add(y);
        found.probabilities.push(this.classify(pooled.value));
      }
    }
    found.result = this.labels[indexOfLargest(whole)];
    return found;
  }

  classify(features) {
    return softmax(product(this.linear.head.weight, features, this.linear.head.bias));
  }

  probabilities(outputs, final) {
    if (this.pooling === "last") return this.classify(this.rnn.last(final));
    const pooled = new Pooling(this.pooling, this.rnn.outputSize, this.linear);
    outputs.forEach((y) => pooled.add(y));
    return this.classify(pooled.value);
  }
}

class Tagger {
  constructor(json, arrays) {
    Object.assign(this, {labels: json.labels, maxWord: json.max_word, maxWords: json.max_words});
    this.rnn = new Layers(json.network.layers.rnn, "layers.rnn", arrays);
    this.spelling = new Layers(json.network.layers.spelling, "layers.spelling", arrays);
    this.layers = this.rnn.described;
    [this.embedding, this.linear] = [arrays.embedding, readLinear(json.network.linear, arrays)];
    this.tokenizer = new Tokenizer(json.tokenizer);
    [this.vocabulary, this.characters] = [new Vocabulary(json.vocabulary), new Vocabulary(json.characters)];
  }

  spell(word) { // the vector of a word: its embedding, and the final states of the layers over its characters
    const half = this.maxWord / 2, all = Array.from(word);
    const characters = all.length <= this.maxWord ? all : [...all.slice(0, half), ...all.slice(-half)];
    const {final} = this.spelling.run(this.characters.encode(characters).map((token) => this.spelling.read(token)));
    const [number] = this.vocabulary.encode([word.toLowerCase()]);
    return concatenate(rowOf(this.embedding, number), this.spelling.last(final));
  }

  // {words, labels, probabilities: of each label for every word, values, result: the label of every word}
  read(text) {
    const words = this.tokenizer.words(text).slice(0, this.maxWords), known = new Map();
    for (const word of words) if (!known.has(word)) known.set(word, this.spell(word));
    const {outputs, values} = this.rnn.run(words.map((word) => known.get(word)));
    const probabilities = outputs.map((y) => softmax(product(this.linear.head.weight, y, this.linear.head.bias)));
    const result = probabilities.map((row) => this.labels[indexOfLargest(row)]);
    return {words, labels: this.labels, probabilities, values, result};
  }
}

class Translator {
  constructor(json, arrays) {
    this.encoder = new Layers(json.network.layers.encoder, "layers.encoder", arrays);
    this.decoder = new Layers(json.network.layers.decoder, "layers.decoder", arrays);
    Object.assign(this, {attention: json.network.attention, layers: this.decoder.described});
    this.linear = readLinear(json.network.linear, arrays);
    this.tokenizer = new Tokenizer(json.tokenizer);
    [this.source, this.target] = [new Vocabulary(json.source), new Vocabulary(json.target)];
  }

  encode(tokens) {
    const {outputs, final} = this.encoder.run(tokens.map((token) => this.encoder.read(token)));
    const {memory} = this.linear, keys = memory ? outputs.map((y) => product(memory.weight, y)) : outputs;
    return {outputs, keys, state: this.encoder.rows.map((row, k) => this.bridge(row, k, final))};
  }

  bridge(row, k, final) { // the encoder's final states of a layer as the decoder's initial ones
    if (row.length === 1) return final[k];
    const [forward, backward] = final.slice(2 * k, 2 * k + 2), {states} = row[0].cell;
    const bridged = states.filter((state, n) => n === 0 || state === "c");
    return Object.fromEntries(states.map((state, n) => {
      const [a, b] = [forward[state], backward[state]];
      if (!bridged.includes(state)) return [state, a.map((value, j) => (value + b[j]) / 2)];
      const {weight, bias} = this.linear[`bridge${bridged.indexOf(state) * this.encoder.rows.length + k}`];
      const y = product(weight, concatenate(a, b), bias);
      return [state, n ? y : y.map(Math.tanh)];
    }));
  }

  step(memory, token, state) { // {logProbs, attention, state}
    const values = this.decoder.step(this.decoder.read(token), state), {linear} = this;
    let h = this.decoder.outputs(values), attention = null;
    if (this.attention) {
      const query = product(linear.query.weight, h, linear.query.bias), size = memory.outputs[0].length;
      const score = (key) => this.attention === "dot" ? dot(query, key) / Math.sqrt(size)
        : dot(linear.score.weight.data, query.map((value, n) => Math.tanh(value + key[n])));
      attention = softmax(Float32Array.from(memory.keys, score));
      const context = new Float64Array(size);
      memory.outputs.forEach((y, s) => y.forEach((value, n) => (context[n] += attention[s] * value)));
      h = product(linear.combine.weight, concatenate(context, h), linear.combine.bias).map(Math.tanh);
    }
    const logProbs = logSoftmax(product(linear.head.weight, h, linear.head.bias));
    logProbs[PAD] = logProbs[START] = -Infinity;
    return {logProbs, attention, state: values};
  }

  // {source, target: tokens, text, attention: [target][source] or null, probabilities: of every target token}: the best
  // found by a beam search, as minirnn.decode has it; width 1 is greedy
  translate(text, width = 4) {
    const source = this.tokenizer.split(text), found = {source, target: [], text: "", attention: [], probabilities: []};
    if (!this.attention) found.attention = null;
    if (!source.length) return found;
    const memory = this.encode(this.source.encode(source)), limit = 2 * source.length + 10;
    const penalty = (length) => (5 + length) / 6;
    let beam = [{token: START, state: memory.state, total: 0, path: []}], best = null;
    const finish = (one) => {
      const score = one.total / penalty(one.path.length);
      if (!best || score > best.score) best = {score, path: one.path};
    };
    for (let length = 1; beam.length; length++) {
      const choices = [];
      for (const one of beam) {
        const {logProbs, attention, state} = this.step(memory, one.token, one.state);
        logProbs.forEach((logProb, token) => {
          const total = one.total + logProb;
          if (choices.length === width && total <= choices[width - 1].total) return;
          const at = choices.findIndex((other) => total > other.total);
          const path = [...one.path, {token, attention, probability: Math.exp(logProb)}];
          choices.splice(at < 0 ? choices.length : at, 0, {token, state, total, path});
          choices.length = Math.min(choices.length, width);
        });
      }
      const ended = beam;
      beam = [];
      for (const one of choices.filter(({total}) => total > -Infinity)) {
        if (one.token === END || length === limit) finish(one);
        else beam.push(one);
      }
      if (!beam.length && !best) ended.forEach(finish);
      if (best && beam.every(({total}) => total / penalty(limit) <= best.score)) beam = [];
    }
    const path = best.path.filter(({token}) => token !== END);
    found.target = path.map(({token, attention}) =>
      token === UNK && attention ? source[indexOfLargest(attention)] : this.target.tokens[token]);
    if (this.attention) found.attention = path.map(({attention}) => attention);
    found.probabilities = path.map(({probability}) => probability);
    return {...found, text: this.tokenizer.join(found.target)};
  }
}

function readLinear(names, arrays) {
  return Object.fromEntries(names.map((name) => [
    name, {weight: arrays[`linear.${name}.weight`], bias: arrays[`linear.${name}.bias`]},
  ]));
}

function makeModel(json) {
  const kinds = {char: CharModel, classifier: Classifier, tagger: Tagger, translator: Translator};
  return Object.assign(new kinds[json.kind](json, readArrays(json)), {kind: json.kind});
}
