#!/bin/sh
# Create the secrets of compose.yaml in FOLDER (default: secrets), each in a file. Files that exist are kept.
#
# Only the owner can enter the folder. The files in it are readable, because containers see each file alone, as
# another user.
set -eu
folder=${1:-secrets}
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"
command -v openssl > /dev/null || { echo "create_secrets.sh needs openssl: install it" >&2; exit 1; }

random() { head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
# 32 bytes in the URL-safe alphabet of base64, as `reelhaul fetcher cookies key` prints them.
seal_key() { head -c 32 /dev/urandom | base64 | tr -d '\n' | tr '+/' '-_'; }
create() {
  if [ ! -e "$1" ]; then
    (umask 077 && cat > "$1.new") && chmod 444 "$1.new" && mv "$1.new" "$1"
    echo "created $folder/$1"
  fi
}

random 32 | create suite_token
random 32 | create metrics_token
random 16 | create grafana_password
seal_key | create jobs_seal_key
seal_key | create storage_seal_key

if [ ! -e nats_token.conf ]; then
  token=$(random 32)
  printf 'authorization { token: "%s" }\n' "$token" | create nats_token.conf
  printf 'nats://%s@nats:4222' "$token" | create nats_url
fi
if [ ! -e postgres_password ]; then
  password=$(random 32)
  printf '%s' "$password" | create postgres_password
  printf 'postgresql://reelhaul:%s@postgres:5432/jobs' "$password" | create jobs_database_url
  printf 'postgresql://reelhaul:%s@postgres:5432/storage' "$password" | create storage_database_url
fi
if [ ! -e s3_identities.json ]; then
  id=reelhaul key=$(random 32)
  printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$id" "$key" | create aws_credentials
  printf '{"identities": [{"name": "reelhaul", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": ["Admin"]}]}\n' \
    "$id" "$key" | create s3_identities.json
fi
if [ ! -e s3_grpc_key.pem ]; then
  umask 077
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj /CN=s3 \
    -keyout grpc_key.tmp -out grpc_certificate.tmp 2> /dev/null
  create s3_grpc_certificate.pem < grpc_certificate.tmp
  create s3_grpc_key.pem < grpc_key.tmp
  rm grpc_key.tmp grpc_certificate.tmp
fi
