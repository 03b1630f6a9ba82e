/** What a served model promises, out of its configuration's parameters; as serving/contract.py. */

import { MismatchError } from "./errors.js";

export type Kind = "segment" | "cam";

export interface TissueClass {
  readonly name: string;
  /** sRGB, 0…255. */
  readonly color: readonly [number, number, number];
}

export interface Contract {
  readonly task: string;
  readonly kind: Kind;
  readonly method: string;
  /** Labels 1…C; 0 is the background. */
  readonly classes: readonly TissueClass[];
  /** Micrometers per pixel of the tiles. */
  readonly mpp: number;
  /** Side of a tile in pixels. */
  readonly tilePx: number;
  /** Side in pixels of a cell of PROBABILITIES and CAM. */
  readonly cellPx: number;
  readonly release: string;
  /** Tiles per request at most. */
  readonly maxBatch: number;
}

export interface ModelConfig {
  readonly max_batch_size: number;
  readonly parameters: Readonly<Record<string, { readonly string_value: string }>>;
}

const VERSION = "1";

/** @throws MismatchError: not a model of ours, or of another contract. */
export function parseContract(name: string, config: ModelConfig): Contract {
  const parameter = (key: string): string => {
    const value = config.parameters[`histoserve.${key}`]?.string_value;
    if (value === undefined) throw new MismatchError(`model '${name}': expected the parameter histoserve.${key}, got none: export the model again`);
    return value;
  };
  if (parameter("contract") !== VERSION) throw new MismatchError(`model '${name}': expected contract version ${VERSION}, got ${parameter("contract")}`);
  const kind = parameter("kind");
  if (kind !== "segment" && kind !== "cam") throw new MismatchError(`model '${name}': expected kind 'segment' or 'cam', got '${kind}'`);
  return {
    task: parameter("task"),
    kind,
    method: parameter("method"),
    classes: JSON.parse(parameter("classes")) as TissueClass[],
    mpp: Number(parameter("mpp")),
    tilePx: Number(parameter("tile_px")),
    cellPx: Number(parameter("cell_px")),
    release: parameter("release"),
    maxBatch: config.max_batch_size,
  };
}
