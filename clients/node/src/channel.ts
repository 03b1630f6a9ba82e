/** KServe v2 gRPC to one server, of the protos in clients/protos. Knows no model and no retry. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import type { ModelConfig } from "./contract.js";

export interface Tensor {
  readonly name: string;
  readonly datatype: "UINT8" | "FP32" | "BYTES";
  readonly shape: readonly number[];
  readonly data: Buffer;
}

interface InferResponse {
  outputs: { name: string; datatype: Tensor["datatype"]; shape: string[] }[];
  raw_output_contents: Buffer[];
}

type Unary<Request, Response> = (
  request: Request,
  metadata: grpc.Metadata,
  done: (error: grpc.ServiceError | null, response: Response) => void,
) => grpc.ClientUnaryCall;

interface Stub extends grpc.Client {
  ModelConfig: Unary<{ name: string }, { config: ModelConfig }>;
  ModelInfer: Unary<object, InferResponse>;
}

const PROTO = "grpc_service.proto";
const PROTOS = fileURLToPath(new URL("../../protos", import.meta.url));
const OPTIONS = {
  "grpc.max_send_message_length": -1,
  "grpc.max_receive_message_length": -1,
  "grpc.max_reconnect_backoff_ms": 2000,
  "grpc.enable_http_proxy": 0,
};

/** Requests carry no deadline and are never canceled: Triton before 2.53 can crash on either. */
export class Channel {
  readonly #stub: Stub;
  readonly #metadata = new grpc.Metadata();

  constructor(address: string, credentials: grpc.ChannelCredentials, headers: Readonly<Record<string, string>>, protos = PROTOS) {
    if (!existsSync(join(protos, PROTO))) {
      throw new Error(`protos: expected ${PROTO} in ${protos}, found none: give the folder of histoserve's clients/protos as the option protos`);
    }
    const loaded = loadSync(PROTO, { includeDirs: [protos], keepCase: true, longs: String, enums: String, defaults: true });
    const packages = grpc.loadPackageDefinition(loaded) as unknown as { inference: { GRPCInferenceService: grpc.ServiceClientConstructor } };
    this.#stub = new packages.inference.GRPCInferenceService(address, credentials, OPTIONS) as unknown as Stub;
    for (const [name, value] of Object.entries(headers)) this.#metadata.set(name, value);
  }

  async modelConfig(name: string): Promise<ModelConfig> {
    return (await this.#call<{ config: ModelConfig }>((done) => this.#stub.ModelConfig({ name }, this.#metadata, done))).config;
  }

  /** The named outputs, in their order. */
  async infer(model: string, input: Tensor, outputs: readonly string[]): Promise<Map<string, Tensor>> {
    const request = {
      model_name: model,
      inputs: [{ name: input.name, datatype: input.datatype, shape: input.shape }],
      outputs: outputs.map((name) => ({ name })),
      raw_input_contents: [input.data],
    };
    const response = await this.#call<InferResponse>((done) => this.#stub.ModelInfer(request, this.#metadata, done));
    const tensors = response.outputs.map((output, index) => ({
      name: output.name,
      datatype: output.datatype,
      shape: output.shape.map(Number),
      data: response.raw_output_contents[index] ?? Buffer.alloc(0),
    }));
    return new Map(tensors.map((tensor) => [tensor.name, tensor]));
  }

  close(): void {
    this.#stub.close();
  }

  #call<Response>(start: (done: (error: grpc.ServiceError | null, response: Response) => void) => void): Promise<Response> {
    return new Promise((resolve, reject) => start((error, response) => (error ? reject(error) : resolve(response))));
  }
}
