// A network that was compiled for wasm32, in a browser or in node: the interface of specc.h on typed arrays.
//
//     const network = await Network.open(await (await fetch("network.wasm")).arrayBuffer(), weights);
//     const { output } = network.run({ image });        // arrays by name, dense and row-major
//
// Where the network was compiled at several sizes, the arrays' lengths say at which one it runs.

const ALIGNMENT = 64;
const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int32: Int32Array,
  int64: BigInt64Array,
  bool: Uint8Array,
};

function fits(tensor, array) {
  return array instanceof ARRAYS[tensor.dtype] && array.byteLength === tensor.bytes;
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
    const view = () => new DataView(exports.memory.buffer);
    const word = (address) => view().getUint32(address, true);
    // Pointers and int32 take 4 bytes, and 64-bit numbers begin at multiples of 8: see specc_interface and specc_size.
    this.name = this.#text(word(about));
    const [inputs, outputs, count] = [8, 12, 16].map((at) => word(about + at));
    this.sizes = Array.from({ length: count }, (_, i) => word(about + 20) + 24 * i).map((size) => ({
      inputs: this.#tensors(word(size), inputs),
      outputs: this.#tensors(word(size + 4), outputs),
    }));
    const place = this.#allocate(weights.byteLength);
    new Uint8Array(exports.memory.buffer).set(weights, place);
    const handle = this.#allocate(4);
    this.#check(exports.specc_open(place, BigInt(weights.byteLength), handle));
    this.model = word(handle);
    // Memory that is large enough at each size, and the shapes of each as specc_set_shapes takes them.
    const most = (kind, i) => Math.max(...this.sizes.map((size) => size[kind][i].bytes));
    this.inputTable = this.#table(Array.from({ length: inputs }, (_, i) => this.#allocate(most("inputs", i))));
    this.outputTable = this.#table(Array.from({ length: outputs }, (_, i) => this.#allocate(most("outputs", i))));
    for (const size of this.sizes) size.shapes = this.#table(size.inputs.map((tensor) => tensor.extents));
  }

  /** Computes the outputs, by name, as new typed arrays; `size` is one of `sizes`, where the lengths leave a choice. */
  run(given, size = this.#fitting(given)) {
    const word = (address) => new DataView(this.exports.memory.buffer).getUint32(address, true);
    size.inputs.forEach((tensor, i) => {
      const array = given[tensor.name];
      if (!fits(tensor, array)) throw new Error(`\`${tensor.name}\` is ${tensor.dtype}[${tensor.shape}]`);
      const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
      new Uint8Array(this.exports.memory.buffer).set(bytes, word(this.inputTable + 4 * i));
    });
    this.#check(this.exports.specc_set_shapes(this.model, size.shapes));
    this.#check(this.exports.specc_run(this.model, this.inputTable, this.outputTable));
    const results = {};
    size.outputs.forEach((tensor, i) => {
      const address = word(this.outputTable + 4 * i);
      const bytes = this.exports.memory.buffer.slice(address, address + tensor.bytes);
      results[tensor.name] = new ARRAYS[tensor.dtype](bytes);
    });
    return results;
  }

  /** The size for arrays of these lengths. */
  #fitting(given) {
    const found = this.sizes.filter((size) => size.inputs.every((tensor) => fits(tensor, given[tensor.name])));
    if (found.length === 1) return found[0];
    const described = ({ inputs }) => inputs.map(({ name, dtype, shape }) => `${name}: ${dtype}[${shape}]`).join(", ");
    const sizes = this.sizes.map(described).join("; or ");
    throw new Error(`${found.length ? "more than one size takes" : "no size takes"} these arrays; there is ${sizes}`);
  }

  #tensors(address, count) {
    const found = [];
    const view = new DataView(this.exports.memory.buffer);
    for (let at = address; found.length < count; at += 24) {
      const rank = view.getInt32(at + 8, true);
      const extents = view.getUint32(at + 12, true);
      found.push({
        name: this.#text(view.getUint32(at, true)),
        dtype: this.#text(view.getUint32(at + 4, true)),
        shape: Array.from({ length: rank }, (_, i) => Number(view.getBigInt64(extents + 8 * i, true))),
        extents,
        bytes: Number(view.getBigUint64(at + 16, true)),
      });
    }
    return found;
  }

  #table(addresses) {
    const table = this.#allocate(4 * addresses.length);
    const view = new DataView(this.exports.memory.buffer);
    addresses.forEach((address, i) => view.setUint32(table + 4 * i, address, true));
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
