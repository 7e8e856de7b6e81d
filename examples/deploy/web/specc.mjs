// A network that was compiled for wasm32, in a browser or in node: the interface of specc.h on typed arrays.
//
//     const network = await Network.open(await (await fetch("network.wasm")).arrayBuffer(), weights);
//     const { output } = network.run({ image });        // arrays by name, dense and row-major

const ALIGNMENT = 64;
const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int32: Int32Array,
  int64: BigInt64Array,
  bool: Uint8Array,
};

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
    // Pointers and int32 take 4 bytes, and 64-bit numbers begin at multiples of 8: see specc_interface.
    this.name = this.#text(word(about));
    const [inputs, outputs] = [word(about + 8), word(about + 12)];
    this.inputs = this.#tensors(word(about + 20), inputs);
    this.outputs = this.#tensors(word(about + 24), outputs);
    const place = this.#allocate(weights.byteLength);
    new Uint8Array(exports.memory.buffer).set(weights, place);
    const handle = this.#allocate(4);
    this.#check(exports.specc_open(place, BigInt(weights.byteLength), handle));
    this.model = word(handle);
    for (const tensor of [...this.inputs, ...this.outputs]) tensor.address = this.#allocate(tensor.bytes);
    this.inputTable = this.#table(this.inputs);
    this.outputTable = this.#table(this.outputs);
  }

  /** Computes the outputs, by name, as new typed arrays. */
  run(given) {
    for (const tensor of this.inputs) {
      const array = given[tensor.name];
      if (!(array instanceof ARRAYS[tensor.dtype]) || array.byteLength !== tensor.bytes) {
        throw new Error(`\`${tensor.name}\` is ${tensor.dtype}[${tensor.shape}]`);
      }
      new Uint8Array(this.exports.memory.buffer).set(
        new Uint8Array(array.buffer, array.byteOffset, array.byteLength),
        tensor.address,
      );
    }
    this.#check(this.exports.specc_run(this.model, this.inputTable, this.outputTable));
    const results = {};
    for (const tensor of this.outputs) {
      const bytes = this.exports.memory.buffer.slice(tensor.address, tensor.address + tensor.bytes);
      results[tensor.name] = new ARRAYS[tensor.dtype](bytes);
    }
    return results;
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
        bytes: Number(view.getBigUint64(at + 16, true)),
      });
    }
    return found;
  }

  #table(tensors) {
    const address = this.#allocate(4 * tensors.length);
    const view = new DataView(this.exports.memory.buffer);
    tensors.forEach((tensor, i) => view.setUint32(address + 4 * i, tensor.address, true));
    return address;
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
