#!/bin/sh
# What of the official image's entrypoint compose.yaml uses: the user, the database, and the script on first start.
set -eu
if [ ! -e "$PGDATA/PG_VERSION" ]; then
  initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-host=scram-sha-256 --encoding=UTF8 "$PGDATA" >/dev/null
  printf '%s\n' "listen_addresses = '*'" "unix_socket_directories = '/run/postgresql'" >> "$PGDATA/postgresql.conf"
  printf '%s\n' 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  pg_ctl --wait --silent --options="-c listen_addresses=''" start
  createdb --host=/run/postgresql --username="$POSTGRES_USER" "$POSTGRES_DB"
  for file in /docker-entrypoint-initdb.d/*.sql; do
    psql --quiet --host=/run/postgresql --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --file="$file"
  done
  pg_ctl --wait --silent --mode=fast stop
fi
exec postgres
