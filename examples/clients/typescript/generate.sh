#!/bin/sh
# Generates the stubs into gen/, after `npm ci`. Needs protoc and the protos of googleapis in $GOOGLEAPIS.
# PROTOC may name another compiler: PROTOC="python -m grpc_tools.protoc".
set -eu
cd "$(dirname "$0")"
protos=../../../protos
mkdir -p gen
# shellcheck disable=SC2046
${PROTOC:-protoc} -I $protos -I "$GOOGLEAPIS" \
  --plugin=protoc-gen-ts_proto=node_modules/.bin/protoc-gen-ts_proto \
  --ts_proto_out=gen --ts_proto_opt=outputServices=grpc-js,esModuleInterop=true \
  $(find $protos/gatehouse -name '*.proto') \
  google/rpc/status.proto google/rpc/error_details.proto
