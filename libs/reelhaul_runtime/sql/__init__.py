"""SQL: one small door to SQLite and PostgreSQL for services that keep rows."""
