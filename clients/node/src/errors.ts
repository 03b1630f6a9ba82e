/** What a call of a served model can end with; as clients/call_errors.py. */

/** Base of this client's errors. */
export class CallError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** The array is no batch of the model's tiles; nothing was sent. */
export class TilesError extends CallError {}

/** The bytes are no image of a tile. */
export class ImageFileError extends CallError {}

/** The server lacks that entry. */
export class MissingModelError extends CallError {}

/** Not a model of ours, or an answer that does not fit the contract. */
export class MismatchError extends CallError {}

/** The server refuses this caller: certificate, header or a restricted protocol. */
export class AccessError extends CallError {}

/** Nothing is wrong with the request: send it again later. */
export class TransientError extends CallError {}

/** The queue stayed full. */
export class BusyError extends TransientError {}

/** The server did not answer. */
export class UnreachableError extends TransientError {}

/** The answer did not come within the caller's time; what was sent is left to finish. */
export class DeadlineError extends CallError {}

/** The model failed on these tiles; sending them again would not help. */
export class FailedError extends CallError {}

/** The client was closed. */
export class ClosedError extends CallError {}

const UNAVAILABLE = 14;
const DEADLINE_EXCEEDED = 4;
const NOT_FOUND = 5;
const PERMISSION_DENIED = 7;
const UNAUTHENTICATED = 16;

/** The error of a gRPC status. Triton tells by its message what the status leaves open. */
export function translate(error: { code?: number; details?: string; message: string }, told: string): CallError {
  const reason = (error.details ?? error.message).split(/\s+/).join(" ");
  const message = `${told}: ${reason}`;
  const cause = { cause: error };
  if (error.code === UNAUTHENTICATED || error.code === PERMISSION_DENIED || reason.includes("restricted") || reason.includes("certificate")) {
    return new AccessError(`${message}: give credentials and headers`, cause);
  }
  if (reason.includes("Exceeds maximum queue size")) return new BusyError(`${message}: send less at a time, or later`, cause);
  const hasLostStub = reason.includes("Stub process") && reason.includes("is not healthy");
  if (error.code === UNAVAILABLE || error.code === DEADLINE_EXCEEDED || reason.includes("has no available versions") || hasLostStub) {
    return new UnreachableError(`${message}: start a server with \`histoserve serve\`, or correct the address`, cause);
  }
  if (error.code === NOT_FOUND || reason.includes("unknown model")) return new MissingModelError(`${message}: check the model's name`, cause);
  if (reason.includes("decode step: image")) return new ImageFileError(message, cause);
  return new FailedError(`${message}: the server's log says more`, cause);
}
