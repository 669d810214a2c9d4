#!/usr/bin/env bash
# Downloads a video with curl: download.sh URL [FOLDER]
#
# REELHAUL_GATEWAY_ADDRESS and REELHAUL_API_KEY say where the server is and which key to send.
set -euo pipefail

url=$1 folder=${2:-.}
api=${REELHAUL_GATEWAY_ADDRESS:-http://127.0.0.1:8080}
[[ $api == *://* ]] || api=http://$api
# The key comes from a file, not from an argument: other users of this machine see arguments.
auth() { [ -z "${REELHAUL_API_KEY:-}" ] || echo "header = \"Authorization: Bearer $REELHAUL_API_KEY\""; }
call() { curl -sS --fail-with-body --config <(auth) "$@"; }
# Prints a field of the JSON on standard input: an expression on `it`.
field() { python3 -c "import json, sys; it = json.load(sys.stdin); print($1)"; }

# The same Idempotency-Key returns the same job: curl may repeat the call, and nothing is done twice.
request=$(python3 -c 'import json, sys; print(json.dumps({"url": sys.argv[1], "quality": "720p"}))' "$url")
job=$(call --retry 5 --retry-connrefused "$api/api/v1/download" -H "Idempotency-Key: $(cat /proc/sys/kernel/random/uuid)" \
        -H 'Content-Type: application/json' -d "$request" | field 'it["job_id"]')

# One JSON object per line: the present state first, the whole job last.
last=$(call -N "$api/api/v1/progress/$job" -H 'Accept: application/x-ndjson' | tail -n 1)
if ! file=$(field 'it["result"]["completed"]["files"][0]["url"]' <<<"$last" 2>/dev/null); then
  field '"{reason}: {message}".format(**it["result"]["failed"]["error"])' <<<"$last" >&2
  exit 1
fi
name=$(field 'it["result"]["completed"]["files"][0]["name"]' <<<"$last")
digest=$(field 'it["result"]["completed"]["files"][0]["sha256"]' <<<"$last")

# The URL of a file is a path on this server. -C - resumes what an earlier run has received.
mkdir -p "$folder"
[[ $file == *://* ]] || file=$api$file
call --retry 5 -C - -o "$folder/.$job.part" "$file"
echo "$digest  $folder/.$job.part" | sha256sum --check --quiet
mv --no-clobber "$folder/.$job.part" "$folder/$name"
echo "$folder/$name"
