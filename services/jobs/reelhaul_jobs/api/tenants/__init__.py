"""TenantService: the validation and conversion of its messages."""
