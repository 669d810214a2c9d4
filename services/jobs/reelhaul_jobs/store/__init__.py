"""SQL: tables, row mapping and queries, one module per resource."""
