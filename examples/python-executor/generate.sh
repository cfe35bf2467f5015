#!/bin/sh
# Generates the gRPC stubs of proto/ into generated/, next to this script. PYTHON names the interpreter that has
# requirements.txt installed; default: python3.
set -eu

cd "$(dirname "$0")"
proto=../../proto
rm -rf generated
mkdir generated
"${PYTHON:-python3}" -m grpc_tools.protoc --proto_path="$proto" --python_out=generated --grpc_python_out=generated \
    "$proto"/fanout/v1/*.proto
