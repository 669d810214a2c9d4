"""SQL: SQLite and PostgreSQL for services that keep rows."""
