/** The callers' client for Node.js: tiles or the file of a tile to a served model and back. */

import * as grpc from "@grpc/grpc-js";
import { Channel, type Tensor } from "./channel.js";
import { parseContract, type Contract, type Kind } from "./contract.js";
import { CallError, ClosedError, DeadlineError, ImageFileError, MismatchError, TilesError, TransientError, translate } from "./errors.js";

export * from "./errors.js";
export type { Contract, Kind, TissueClass } from "./contract.js";

export interface Segmentation {
  readonly count: number;
  /** (count, tilePx, tilePx), row by row: 0 = background, 1…C = the classes in order. */
  readonly labels: Uint8Array;
  /** (count, C + 1, h, w) on the grid of cells, 255 = certain. */
  readonly levels: Uint8Array;
}

export interface Activation {
  readonly count: number;
  /** (count, C, h, w), 0…1. */
  readonly cam: Float32Array;
  /** (count, C), 0…1. */
  readonly scores: Float32Array;
  readonly labels: Uint8Array;
}

export interface Options {
  /** Requests on the way at a time. */
  readonly inFlight?: number;
  /** How long full queues and lost connections are tried again. */
  readonly patienceMs?: number;
  /** TLS: `grpc.credentials.createSsl(...)`; none by default. */
  readonly credentials?: grpc.ChannelCredentials;
  /** Sent with every request, e.g. { authorization: "Bearer …" }. */
  readonly headers?: Readonly<Record<string, string>>;
  /** The folder of the protos, where it is not beside this package. */
  readonly protos?: string;
}

export interface Call {
  /** How long to wait; what was sent is left to finish. */
  readonly deadlineMs?: number;
}

const CLOSE_MS = 30_000;
const WAITS_MS = [100, 250, 500, 1000, 2000];
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Calls the entries of one model. What was sent is never canceled, since Triton before 2.53 can crash on it. */
export class TileClient {
  readonly #channel: Channel;
  readonly #contracts = new Map<string, Promise<Contract>>();
  readonly #waiting: (() => void)[] = [];
  readonly #patienceMs: number;
  readonly #places: number;
  #free: number;
  #isClosed = false;

  constructor(readonly address: string, readonly model: string, options: Options = {}) {
    const { inFlight = 4, patienceMs = 60_000 } = options;
    if (!Number.isInteger(inFlight) || inFlight < 1) throw new RangeError(`inFlight: expected an integer of at least 1, got ${inFlight}`);
    if (!(patienceMs >= 0)) throw new RangeError(`patienceMs: expected 0 or more, got ${patienceMs}`);
    this.#places = this.#free = inFlight;
    this.#patienceMs = patienceMs;
    this.#channel = new Channel(address, options.credentials ?? grpc.credentials.createInsecure(), options.headers ?? {}, options.protos);
  }

  /** What was not sent ends with `ClosedError`; what is on the way is waited for, half a minute at most, since hanging up cancels it. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const end = Date.now() + CLOSE_MS; this.#free < this.#places && Date.now() < end; ) await sleep(20);
    this.#channel.close();
  }

  contract(kind: Kind = "segment"): Promise<Contract> {
    return this.#contract(`${this.model}_${kind}`);
  }

  /** @param tiles uint8 RGB (n, tilePx, tilePx, 3), row by row, any n. */
  async segment(tiles: Uint8Array, call: Call = {}): Promise<Segmentation> {
    const [count, parts] = await within(this.#tiles("segment", tiles, ["LABELS", "PROBABILITIES"]), call.deadlineMs);
    return { count, labels: bytes(parts, "LABELS"), levels: bytes(parts, "PROBABILITIES") };
  }

  /** Arguments and errors as of `segment`. */
  async cam(tiles: Uint8Array, call: Call = {}): Promise<Activation> {
    const [count, parts] = await within(this.#tiles("cam", tiles, ["CAM", "SCORES", "LABELS"]), call.deadlineMs);
    return { count, cam: floats(parts, "CAM"), scores: floats(parts, "SCORES"), labels: bytes(parts, "LABELS") };
  }

  /** One JPEG, PNG or WebP file of exactly a tile's size; larger images are stitched by the Python client alone. */
  async segmentImage(file: Uint8Array, call: Call = {}): Promise<Segmentation> {
    const parts = [await within(this.#file(file), call.deadlineMs)];
    return { count: 1, labels: bytes(parts, "LABELS"), levels: bytes(parts, "PROBABILITIES") };
  }

  async #tiles(kind: Kind, tiles: Uint8Array, outputs: readonly string[]): Promise<[number, Map<string, Tensor>[]]> {
    const contract = await this.contract(kind);
    const side = contract.tilePx;
    const size = side * side * 3;
    if (!(tiles instanceof Uint8Array) || tiles.length % size !== 0) {
      throw new TilesError(`tiles: expected a Uint8Array of (n, ${side}, ${side}, 3), got ${given(tiles)}`);
    }
    const requests: Promise<Map<string, Tensor>>[] = [];
    for (let start = 0; start < tiles.length; start += size * contract.maxBatch) {
      const data = Buffer.from(tiles.buffer, tiles.byteOffset + start, Math.min(size * contract.maxBatch, tiles.length - start));
      const input: Tensor = { name: "TILE", datatype: "UINT8", shape: [data.length / size, side, side, 3], data };
      requests.push(this.#infer(`${this.model}_${kind}`, input, outputs, contract));
    }
    return [tiles.length / size, await Promise.all(requests)];
  }

  async #file(file: Uint8Array): Promise<Map<string, Tensor>> {
    const name = `${this.model}_segment_image`;
    const contract = await this.#contract(name);
    if (!(file instanceof Uint8Array)) throw new ImageFileError(`file: expected the bytes of a file as a Uint8Array, got ${given(file)}`);
    const data = Buffer.alloc(4 + file.length); // KServe's BYTES: each element behind its length
    data.writeUInt32LE(file.length, 0);
    data.set(file, 4);
    return this.#infer(name, { name: "IMAGE", datatype: "BYTES", shape: [1, 1], data }, ["LABELS", "PROBABILITIES"], contract);
  }

  async #infer(model: string, input: Tensor, outputs: readonly string[], contract: Contract): Promise<Map<string, Tensor>> {
    await this.#enter();
    try {
      const answer = await this.#patiently(model, () => this.#channel.infer(model, input, outputs));
      for (const name of outputs) checkOutput(model, answer.get(name), name, input.shape[0] ?? 0, contract);
      return answer;
    } finally {
      this.#leave();
    }
  }

  #contract(name: string): Promise<Contract> {
    const known = this.#contracts.get(name);
    if (known !== undefined) return known;
    const asked = this.#patiently(name, async () => parseContract(name, await this.#channel.modelConfig(name)));
    this.#contracts.set(name, asked);
    asked.catch(() => this.#contracts.delete(name)); // the next call asks again
    return asked;
  }

  async #patiently<Answer>(model: string, ask: () => Promise<Answer>): Promise<Answer> {
    const end = Date.now() + this.#patienceMs;
    for (let attempt = 0; ; attempt++) {
      if (this.#isClosed) throw new ClosedError("the client was closed");
      try {
        return await ask();
      } catch (error) {
        const told = error instanceof CallError ? error : translate(error as grpc.ServiceError, `${this.address}: model '${model}'`);
        const wait = Math.min(WAITS_MS[Math.min(attempt, WAITS_MS.length - 1)] ?? 0, end - Date.now());
        if (!(told instanceof TransientError) || wait <= 0) throw told;
        await sleep(wait);
      }
    }
  }

  async #enter(): Promise<void> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** The place goes to whoever waits longest. */
  #leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free++;
    else next();
  }
}

async function within<Answer>(answer: Promise<Answer>, deadlineMs: number | undefined): Promise<Answer> {
  if (deadlineMs === undefined) return answer;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new DeadlineError(`no answer within ${deadlineMs} ms; what was sent is left to finish`)), deadlineMs);
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** For a message: callers in JavaScript hand over anything. */
function given(value: unknown): string {
  if (value instanceof Uint8Array) return `${value.length} values`;
  return typeof value === "object" && value !== null ? `a ${value.constructor.name}` : `a value of type ${typeof value}`;
}

function checkOutput(model: string, tensor: Tensor | undefined, name: string, count: number, contract: Contract): void {
  const [side, cells, classes] = [contract.tilePx, contract.tilePx / contract.cellPx, contract.classes.length];
  const shapes: Record<string, number[]> = {
    LABELS: [count, side, side],
    PROBABILITIES: [count, classes + 1, cells, cells],
    CAM: [count, classes, cells, cells],
    SCORES: [count, classes],
  };
  const expected = shapes[name];
  if (tensor === undefined || tensor.shape.join() !== expected?.join()) {
    throw new MismatchError(`model '${model}': expected ${name} (${expected?.join(", ")}), got (${tensor?.shape.join(", ") ?? "none"})`);
  }
}

function bytes(parts: readonly Map<string, Tensor>[], name: string): Uint8Array {
  return new Uint8Array(joined(parts, name));
}

function floats(parts: readonly Map<string, Tensor>[], name: string): Float32Array {
  return new Float32Array(joined(parts, name));
}

/** A buffer of its own: Node's may lie anywhere in a pool, where no float may start. */
function joined(parts: readonly Map<string, Tensor>[], name: string): ArrayBuffer {
  const whole = Buffer.concat(parts.map((part) => part.get(name)?.data ?? Buffer.alloc(0)));
  return whole.buffer.slice(whole.byteOffset, whole.byteOffset + whole.length) as ArrayBuffer;
}
