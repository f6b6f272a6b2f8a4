#!/bin/bash
# Makes one authority and one node certificate (EC P-256, SPIFFE URI and DNS names) in the folder $1. Every peer uses
# the same certificate as server and as client, so that handshakes cost them the same. Starling makes its own.
set -euo pipefail
cd "$1"
[ -s node.pem ] && exit 0

openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out ca.key
openssl req -x509 -new -key ca.key -days 30 -subj /CN=bench-ca -out ca.crt \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign 2>/dev/null

cat > extensions <<END
subjectAltName=DNS:bench.internal,URI:spiffe://bench.internal/node/vm,IP:127.0.0.1
basicConstraints=CA:FALSE
keyUsage=digitalSignature
extendedKeyUsage=serverAuth,clientAuth
END
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out node.key
openssl req -new -key node.key -subj /CN=node -out node.csr
openssl x509 -req -in node.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out node.crt 2>/dev/null
cat node.crt node.key > node.pem
chmod 600 ./*.key node.pem
