variable "name" {
  description = "Prefix of the names of all resources."
  type        = string
}

variable "database_endpoint" {
  description = "host:port of PostgreSQL."
  type        = string
}

variable "broker_address" {
  description = "host:port of NATS."
  type        = string
}

variable "versions" {
  description = "Version of each generated secret. A higher number creates a new value; docs/aws.md says what to do then."
  type        = map(number)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.versions) : contains(["suite_token", "metrics_token", "broker", "jobs_database_url", "storage_database_url"], name)])
    error_message = "versions may name suite_token, metrics_token, broker, jobs_database_url and storage_database_url. Seal keys are not replaced, but get a further key in front (docs/aws.md)."
  }
}

variable "recovery_days" {
  description = "Days for which a deleted secret can be restored: 7 to 30, or 0 for none."
  type        = number
}
