// Runs a model of minirnn on arrays of float32: arrays, layers. Before this file stand DIGITS, those of base 85, and CELLS,
// one object for each kind of layer; after it models.js.

// ------------------------------------------------------------------------------------------------------- arrays

function halfFloats() { // the number of every bit pattern of a float16
  const table = new Float32Array(1 << 16);
  for (let n = 0; n < table.length; n++) {
    const exponent = (n >> 10) & 31, fraction = n & 1023, sign = n >> 15 ? -1 : 1;
    table[n] = sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  }
  return table;
}

function decodeBase85(text) { // five characters for four bytes, digits in the order of DIGITS
  const bytes = new Uint8Array((text.length / 5) * 4), view = new DataView(bytes.buffer), digits = new Uint8Array(128);
  for (let n = 0; n < 85; n++) digits[DIGITS.charCodeAt(n)] = n;
  for (let n = 0; n < text.length; n += 5) {
    let value = 0;
    for (let k = n; k < n + 5; k++) value = value * 85 + digits[text.charCodeAt(k)];
    view.setUint32((n / 5) * 4, value);
  }
  return bytes;
}

function readArrays({weights, arrays}) { // by name: {data, shape}
  const bytes = decodeBase85(weights), halves = halfFloats(), found = {};
  for (const {name, shape, dtype, offset, scale} of arrays) {
    const size = shape.reduce((a, b) => a * b, 1);
    let data;
    if (dtype === "float32") data = new Float32Array(bytes.buffer, offset, size);
    else if (dtype === "float16") data = Float32Array.from(new Uint16Array(bytes.buffer, offset, size), (n) => halves[n]);
    else {
      const scales = new Float32Array(bytes.buffer, scale, shape[0]), columns = size / shape[0];
      data = Float32Array.from(new Int8Array(bytes.buffer, offset, size), (n, k) => n * scales[Math.floor(k / columns)]);
    }
    found[name] = {data, shape};
  }
  return found;
}

function product(matrix, x, bias) { // W x + b, four rows and two columns at once
  const {data, shape: [rows, columns]} = matrix, even = columns & ~1;
  const y = bias ? bias.data.slice() : new Float32Array(rows);
  let row = 0;
  for (; row + 4 <= rows; row += 4) {
    const first = row * columns, second = first + columns, third = second + columns, fourth = third + columns;
    let a = 0, b = 0, c = 0, d = 0;
    for (let k = 0; k < even; k += 2) {
      const v = x[k], w = x[k + 1];
      a += data[first + k] * v + data[first + k + 1] * w;
      b += data[second + k] * v + data[second + k + 1] * w;
      c += data[third + k] * v + data[third + k + 1] * w;
      d += data[fourth + k] * v + data[fourth + k + 1] * w;
    }
    y[row] += a;
    y[row + 1] += b;
    y[row + 2] += c;
    y[row + 3] += d;
  }
  for (let r = 0; r < rows; r++) { // the last column of an odd number, the last rows
    for (let k = r < row ? even : 0; k < columns; k++) y[r] += data[r * columns + k] * x[k];
  }
  return y;
}

const rowOf = ({data, shape}, n) => data.subarray(n * shape[1], (n + 1) * shape[1]);

function concatenate(...parts) {
  const joined = new Float32Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

function dot(a, b) {
  let total = 0;
  for (let k = 0; k < a.length; k++) total += a[k] * b[k];
  return total;
}

function logSoftmax(x) {
  let largest = -Infinity, total = 0;
  for (const value of x) largest = Math.max(largest, value);
  for (const value of x) total += Math.exp(value - largest);
  const shift = largest + Math.log(total);
  return x.map((value) => value - shift);
}

const softmax = (x) => logSoftmax(x).map(Math.exp);
const indexOfLargest = (x) => x.reduce((best, value, n) => (value > x[best] ? n : best), 0);

// -------------------------------------------------------------------------------------------- functions of cells

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

function erf(x) { // 2/sqrt(pi) exp(-x^2) sum_n 2^n x^(2n+1) / (1 3 5 ... (2n+1))
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x, total = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(total); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    total += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
}

// ------------------------------------------------------------------------------------------------------- layers

class Layer { // one recurrent layer in one direction
  constructor({cell, size, zoneout, reverse}, name, arrays) {
    Object.assign(this, {cell: CELLS[cell], size, zoneout, reverse});
    const get = (key) => arrays[`${name}.${key}`];
    [this.table, this.weightIh, this.biasIh] = [get("table"), get("weight_ih"), get("bias_ih")];
    [this.weightHh, this.biasHh] = [get("weight_hh"), get("bias_hh")];
    this.products = Array.from({length: this.cell.products}, (_, n) => get(`products.${n}`));
    this.vectors = this.cell.vectors.map((vector) => get(`vectors.${vector}`).data);
    this.output = this.cell.states[0];
  }

  start() {
    return Object.fromEntries(this.cell.states.map((state) => [state, new Float32Array(this.size)]));
  }

  input(x) { // the gates' input parts, of a vector, or of a token where there is a table
    return this.table ? rowOf(this.table, x) : product(this.weightIh, x, this.biasIh);
  }

  step(input, state) { // the new states, and the gates
    const recurrent = this.weightHh && product(this.weightHh, state[this.output], this.biasHh);
    return this.cell.step(this, input, recurrent, state);
  }
}

class Layers { // one above the other, in one or both directions
  constructor({rows, merge, residual}, name, arrays) {
    const make = (row, k) => row.map((one, d) => new Layer(one, `${name}.layers.${k}.${d}`, arrays));
    Object.assign(this, {rows: rows.map(make), merge, residual, embedding: arrays[`${name}.embedding`]});
    this.bidirectional = rows[0].length > 1;
    this.described = this.rows.flat().map(({size, cell, reverse}) => ({
      size,
      values: cell.values,
      activations: cell.activations,
      ...(this.bidirectional && {direction: reverse ? "backward" : "forward"}),
    }));
    this.outputSize = this.merged(this.rows[this.rows.length - 1].map((layer) => layer.start()[layer.output])).length;
  }

  start() {
    return this.rows.map(([layer]) => layer.start());
  }

  read(token) { // what the first layer reads: the token's embedding, or the token itself where its rows are in a table
    return this.embedding ? rowOf(this.embedding, token) : token;
  }

  merged(outputs) { // of both directions
    if (!this.bidirectional) return outputs[0];
    const [a, b] = outputs;
    if (this.merge === "concat") return concatenate(a, b);
    if (this.merge === "mul") return a.map((value, n) => value * b[n]);
    return a.map((value, n) => (value + b[n]) * (this.merge === "ave" ? 0.5 : 1));
  }

  step(x, states) { // one step of layers of one direction: the values of each
    return this.rows.map(([layer], k) => {
      const values = layer.step(layer.input(x), states[k]), y = values[layer.output];
      x = k && this.residual ? y.map((value, n) => value + x[n]) : y;
      return values;
    });
  }

  outputs(values) { // the output of the top layer, from the values of all
    const top = values.length - 1, of = (k) => values[k][this.rows[k][0].output];
    if (!this.residual) return of(top);
    return values.reduce((x, _, k) => (k ? of(k).map((value, n) => value + x[n]) : of(k)), null);
  }

  // A whole sequence of vectors or tokens: {outputs: [T], values: [T][L D], final: [L D] values at each one's own last step}.
  // cache: inputs of the first layer by token, kept between calls.
  run(xs, cache = new Map()) {
    const values = xs.map(() => []), final = [];
    let outputs = [];
    this.rows.forEach((row, k) => {
      const parts = row.map((layer) => {
        const ys = new Array(xs.length);
        let state = layer.start();
        for (let n = 0; n < xs.length; n++) {
          const t = layer.reverse ? xs.length - 1 - n : n;
          state = layer.step(this.firstInput(layer, xs[t], k, cache), state);
          values[t].push(state);
          ys[t] = state[layer.output];
        }
        final.push(state);
        return ys;
      });
      const merged = (t) => (k + 1 < this.rows.length && row.length > 1 ? concatenate : (...all) => this.merged(all))(
        ...parts.map((ys) => ys[t]),
      );
      outputs = xs.map((x, t) => (k && this.residual ? merged(t).map((value, n) => value + x[n]) : merged(t)));
      xs = outputs;
    });
    return {outputs, values, final};
  }

  firstInput(layer, x, k, cache) {
    if (k || layer.table) return layer.input(x);
    if (!cache.has(layer)) cache.set(layer, new Map());
    const known = cache.get(layer);
    if (!known.has(x)) known.set(x, layer.input(x));
    return known.get(x);
  }

  last(final) { // the top layer's final h, of two directions each one's own
    return this.merged(final.slice(-this.rows[0].length).map((values) => values[this.rows[0][0].output]));
  }
}
