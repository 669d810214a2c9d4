variable "region" {
  description = "AWS region, for example eu-central-1."
  type        = string
}

variable "repository" {
  description = "The GitHub repository, owner/name, whose workflow may deploy. Empty: none."
  type        = string
  default     = ""

  validation {
    condition     = var.repository == "" || can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.repository))
    error_message = "repository must be owner/name."
  }
}
