// Creates a client's record at a gateway, and reads a refusal.
import { readFileSync } from "node:fs";
import { Metadata, ServiceError, credentials } from "@grpc/grpc-js";

import { Verb } from "./gen/gatehouse/domain/v1/domain";
import { ExecuteRequest, ExecuteResponse, GatewayServiceClient, outcomeToJSON } from "./gen/gatehouse/gateway/v1/gateway";
import { ErrorInfo } from "./gen/google/rpc/error_details";
import { Status } from "./gen/google/rpc/status";

const [address, token, configFile, name] = process.argv.slice(2);

// On this machine alone; elsewhere credentials.createSsl().
const client = new GatewayServiceClient(address, credentials.createInsecure(), {
  "grpc.service_config": readFileSync(configFile, "utf8"),
});

function execute(token: string, request: ExecuteRequest): Promise<ExecuteResponse> {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  return new Promise((resolve, reject) =>
    client.execute(request, metadata, { deadline: Date.now() + 10_000 }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    ),
  );
}

function reasonOf(error: ServiceError): string | undefined {
  const [details] = error.metadata.get("grpc-status-details-bin");
  if (!Buffer.isBuffer(details)) return undefined;
  const info = Status.decode(details).details.find((each) => each.typeUrl.endsWith("/google.rpc.ErrorInfo"));
  return info && ErrorInfo.decode(info.value).reason;
}

async function main(): Promise<void> {
  const request = ExecuteRequest.fromPartial({
    requestId: `create-${name}`,
    operations: { operations: [{ domain: "clients", verb: Verb.VERB_CREATE, fields: { name } }] },
  });
  let answer = await execute(token, request);
  if (answer.confirmation) {
    const confirmationToken = answer.confirmation.confirmationToken;
    answer = await execute(token, ExecuteRequest.fromPartial({ requestId: request.requestId, confirmationToken }));
  }
  console.log(answer.report && outcomeToJSON(answer.report.outcome));

  await execute("no token", request).catch((error: ServiceError) => console.log(reasonOf(error)));
  client.close();
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
