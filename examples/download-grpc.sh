#!/usr/bin/env bash
# Downloads a video over gRPC with buf, without proto files: download-grpc.sh URL
#
# The services support reflection; any other gRPC client works as well.
set -euo pipefail

url=$1
jobs=${REELHAUL_JOBS_ADDRESS:-127.0.0.1:50051}
service=http://$jobs/reelhaul.downloads.v1.DownloadService
# The key comes from a file, not from an argument: other users of this machine see arguments.
auth() { [ -z "${REELHAUL_API_KEY:-}" ] || echo "Authorization: Bearer $REELHAUL_API_KEY"; }
call() {
  buf curl --http2-prior-knowledge --protocol grpc --reflect --reflect-header '*' --header @<(auth) "$service/$1" -d "$2"
}

request=$(python3 -c 'import json, sys, uuid
print(json.dumps({"url": sys.argv[1], "quality": "720p", "request_id": str(uuid.uuid4())}))' "$url")
job=$(call CreateDownload "$request" | python3 -c 'import json, sys; print(json.load(sys.stdin)["job_id"])')

# Every message of the stream is printed; the last one is the whole job.
call WatchProgress "{\"job_id\": \"$job\"}"
