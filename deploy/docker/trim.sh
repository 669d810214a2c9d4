#!/bin/sh
# Remove what Reelhaul does not use from the packages in FOLDER: usage: trim.sh FOLDER
set -eu
cd "$1"

# Clients of other AWS services than S3 and those that give credentials for it.
if [ -d botocore/data ]; then
  find botocore/data -mindepth 1 -maxdepth 1 -type d \
    ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} +
fi
# The gateway serves two files of Swagger UI (reelhaul_gateway.documentation).
if [ -d swagger_ui/static ]; then
  find swagger_ui/static -type f ! -name swagger-ui.css ! -name swagger-ui-bundle.js ! -name 'LICENSE*' -delete
fi
rm -rf Cryptodome/SelfTest sqlalchemy/testing/suite greenlet/tests google/_upb/*.a
# Type stubs, headers and sources of compiled modules.
find . -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.c' -o -name '*.cpp' -o -name '*.pyi' \) -delete
# Symbols for debuggers. Libraries that wheels bundle (*.libs) are stripped already, and patched.
find . -name '*.so' ! -path '*.libs/*' -exec strip --strip-debug {} +
