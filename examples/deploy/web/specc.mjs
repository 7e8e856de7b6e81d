// A network that was compiled for wasm32, in a browser or in node: the interface of specc.h on typed arrays.
//
//     const network = await Network.open(await (await fetch("network.wasm")).arrayBuffer(), weights);
//     const { output } = network.run({ image });        // arrays by name, dense and row-major
//
// Where the network was compiled at several sizes, the arrays' lengths say at which one it runs; so they do where each
// array has one dimension that stays open. With more of them, shapes say it:
//
//     const size = network.at({ image: [1, 3, 480, 640] });
//     const { output } = network.run({ image }, size);  // size.outputs[0].shape is that of `output`

const ALIGNMENT = 64;
const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int32: Int32Array,
  int64: BigInt64Array,
  bool: Uint8Array,
};

const isOpen = (extent) => extent < 0;

function fits(tensor, array) {
  return array instanceof ARRAYS[tensor.dtype] && !tensor.shape.some(isOpen) && array.byteLength === tensor.bytes;
}

/** The shape of `array` where one dimension of the tensor is open at most, else nothing. */
function shapeOf(tensor, array) {
  if (!(array instanceof ARRAYS[tensor.dtype]) || tensor.shape.filter(isOpen).length > 1) return null;
  const rest = tensor.shape.filter((extent) => !isOpen(extent)).reduce((a, b) => a * b, 1);
  const shape = tensor.shape.map((extent) => (isOpen(extent) ? array.length / rest : extent));
  return shape.every(Number.isInteger) && shape.reduce((a, b) => a * b, 1) === array.length ? shape : null;
}

export class Network {
  /** Loads the module (bytes) on its weights (bytes); throws an Error that says why where it cannot. */
  static async open(module, weights) {
    let memory;
    const system = {
      // The clock, in nanoseconds: all that the module asks of its host.
      clock_time_get(clock, precision, result) {
        new DataView(memory.buffer).setBigUint64(result, BigInt(Math.round(performance.now() * 1e6)), true);
        return 0;
      },
    };
    const { instance } = await WebAssembly.instantiate(module, { wasi_snapshot_preview1: system });
    memory = instance.exports.memory;
    instance.exports._initialize();
    return new Network(instance.exports, new Uint8Array(weights));
  }

  constructor(exports, weights) {
    this.exports = exports;
    const about = exports.specc_describe();
    // Pointers and int32 take 4 bytes, and 64-bit numbers begin at multiples of 8: see specc_interface and specc_size.
    this.name = this.#text(this.#word(about));
    this.counts = [8, 12].map((at) => this.#word(about + at));
    const first = this.#word(about + 20);
    this.sizes = Array.from({ length: this.#word(about + 16) }, (_, i) => this.#size(first + 24 * i));
    const place = this.#allocate(weights.byteLength);
    new Uint8Array(exports.memory.buffer).set(weights, place);
    const handle = this.#allocate(4);
    this.#check(exports.specc_open(place, BigInt(weights.byteLength), handle));
    this.model = this.#word(handle);
    // The inputs and the outputs, in memory that grows with what is asked for, and the shapes of the inputs.
    this.tables = this.counts.map((count) => this.#table(Array.from({ length: count }, () => 0)));
    this.rooms = this.counts.map((count) => Array.from({ length: count }, () => 0));
    this.shapes = this.#table(this.sizes[0].inputs.map(({ shape }) => this.#allocate(8 * shape.length)));
  }

  /** The size for inputs of these shapes, by name; throws where the network takes no such inputs. */
  at(shapes) {
    const { inputs } = this.sizes[0];
    for (const { name, shape } of inputs) {
      if (shapes[name]?.length !== shape.length) throw new Error(`\`${name}\` has ${shape.length} dimensions`);
    }
    this.#choose(inputs.map(({ name }) => shapes[name]));
    return this.#size(this.exports.specc_get_size(this.model));
  }

  /** Computes the outputs, by name, as new typed arrays; `size` is one of `sizes`, or what `at` gives. */
  run(given, size = this.#fitting(given)) {
    for (const tensor of size.inputs) {
      if (!fits(tensor, given[tensor.name])) throw new Error(`\`${tensor.name}\` is ${tensor.dtype}[${tensor.shape}]`);
    }
    this.#choose(size.inputs.map(({ shape }) => shape));
    const [inputs, outputs] = [size.inputs, size.outputs].map((tensors, kind) =>
      tensors.map(({ bytes }, i) => this.#room(kind, i, bytes)),
    );
    size.inputs.forEach(({ name }, i) => {
      const { buffer, byteOffset, byteLength } = given[name];
      new Uint8Array(this.exports.memory.buffer).set(new Uint8Array(buffer, byteOffset, byteLength), inputs[i]);
    });
    this.#check(this.exports.specc_run(this.model, ...this.tables));
    const results = size.outputs.map(({ name, dtype, bytes }, i) => {
      return [name, new ARRAYS[dtype](this.exports.memory.buffer.slice(outputs[i], outputs[i] + bytes))];
    });
    return Object.fromEntries(results);
  }

  /** The size for arrays of these lengths. */
  #fitting(given) {
    const found = this.sizes.filter((size) => size.inputs.every((tensor) => fits(tensor, given[tensor.name])));
    if (found.length === 1) return found[0];
    for (const { inputs } of found.length ? [] : this.sizes) {
      const shapes = inputs.map((tensor) => [tensor.name, shapeOf(tensor, given[tensor.name])]);
      if (shapes.every(([, shape]) => shape)) return this.at(Object.fromEntries(shapes));
    }
    const described = ({ inputs }) => inputs.map(({ name, dtype, shape }) => `${name}: ${dtype}[${shape}]`).join(", ");
    const sizes = this.sizes.map(described).join("; or ").replaceAll("-1", "?");
    throw new Error(`${found.length ? "more than one size takes" : "no size takes"} these arrays; there is ${sizes}`);
  }

  /** Lets the model compute at inputs of these shapes. */
  #choose(shapes) {
    const view = new DataView(this.exports.memory.buffer);
    shapes.forEach((shape, i) => {
      shape.forEach((extent, axis) => view.setBigInt64(this.#word(this.shapes + 4 * i) + 8 * axis, BigInt(extent), true));
    });
    this.#check(this.exports.specc_set_shapes(this.model, this.shapes));
  }

  /** The address of memory for input (kind 0) or output (kind 1) number `i`. */
  #room(kind, i, bytes) {
    const entry = this.tables[kind] + 4 * i;
    if (this.rooms[kind][i] < bytes || !this.#word(entry)) {
      this.exports.free(this.#word(entry));
      this.rooms[kind][i] = 0;
      this.#put(entry, 0);
      this.#put(entry, this.#allocate(bytes));
      this.rooms[kind][i] = bytes;
    }
    return this.#word(entry);
  }

  /** What a specc_size says. */
  #size(address) {
    const [inputs, outputs] = this.counts.map((count, i) => this.#tensors(this.#word(address + 4 * i), count));
    return { inputs, outputs };
  }

  #tensors(address, count) {
    const view = new DataView(this.exports.memory.buffer);
    return Array.from({ length: count }, (_, i) => address + 24 * i).map((at) => ({
      name: this.#text(this.#word(at)),
      dtype: this.#text(this.#word(at + 4)),
      shape: Array.from({ length: this.#word(at + 8) }, (_, axis) =>
        Number(view.getBigInt64(this.#word(at + 12) + 8 * axis, true)),
      ),
      bytes: Number(view.getBigUint64(at + 16, true)),
    }));
  }

  #word(address) {
    return new DataView(this.exports.memory.buffer).getUint32(address, true);
  }

  #put(address, word) {
    new DataView(this.exports.memory.buffer).setUint32(address, word, true);
  }

  #table(words) {
    const table = this.#allocate(4 * words.length);
    words.forEach((word, i) => this.#put(table + 4 * i, word));
    return table;
  }

  #allocate(bytes) {
    const address = this.exports.aligned_alloc(ALIGNMENT, Math.ceil(Math.max(bytes, 1) / ALIGNMENT) * ALIGNMENT);
    if (!address) throw new Error(`no memory for ${bytes} bytes`);
    return address;
  }

  #text(address) {
    const bytes = new Uint8Array(this.exports.memory.buffer);
    return new TextDecoder().decode(bytes.slice(address, bytes.indexOf(0, address)));
  }

  #check(problem) {
    if (problem) throw new Error(this.#text(this.exports.specc_message(problem)));
  }
}
