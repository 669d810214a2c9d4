variable "name" {
  description = "Prefix of the names of all resources."
  type        = string
}

variable "domain" {
  description = "The name by which clients reach the suite, for example media.example.org."
  type        = string
}

variable "zone_id" {
  description = "Id of the Route 53 zone that contains the name."
  type        = string
}

variable "requests_per_address" {
  description = "Requests that one address may make in five minutes before it is blocked for a while. Limits of API keys are the suite's own."
  type        = number

  validation {
    condition     = var.requests_per_address >= 100
    error_message = "requests_per_address must be at least 100."
  }
}

variable "log_group_arn" {
  description = "Log group of blocked requests; its name must begin with aws-waf-logs-."
  type        = string
}
