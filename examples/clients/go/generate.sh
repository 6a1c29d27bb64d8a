#!/bin/sh
# Generates the stubs into gen/. Needs protoc, protoc-gen-go and protoc-gen-go-grpc, and the protos of
# googleapis in $GOOGLEAPIS. PROTOC may name another compiler: PROTOC="python -m grpc_tools.protoc".
set -eu
cd "$(dirname "$0")"
protos=../../../protos
mkdir -p gen
mapped=""
for file in $(cd $protos && find gatehouse -name '*.proto'); do
  package="gatehouse.example/client/gen/$(dirname "$file")"
  mapped="$mapped --go_opt=M$file=$package --go-grpc_opt=M$file=$package"
done
# shellcheck disable=SC2086
${PROTOC:-protoc} -I $protos -I "$GOOGLEAPIS" \
  --go_out=gen --go_opt=module=gatehouse.example/client/gen \
  --go-grpc_out=gen --go-grpc_opt=module=gatehouse.example/client/gen \
  $mapped $(find $protos/gatehouse -name '*.proto')
