"""AuditService: its servicer, and the filter and pages of its list."""
