variable "name" {
  description = "Prefix of the names of all resources."
  type        = string
}

variable "subnet_ids" {
  type = list(string)
}

variable "security_group_id" {
  type = string
}

variable "kms_key_arn" {
  type = string
}

variable "node_type" {
  description = "For example cache.t4g.micro."
  type        = string
}

variable "nodes" {
  description = "1, or more in several zones, one of which takes over when the first fails."
  type        = number
}
