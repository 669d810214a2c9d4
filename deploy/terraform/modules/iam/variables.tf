variable "name" {
  description = "Prefix of the names of all resources."
  type        = string
}

variable "compute" {
  description = "ecs or eks."
  type        = string
}

variable "repository_prefix" {
  description = "Prefix of the repositories that images are pulled from, as in modules/registry."
  type        = string
}

variable "secret_arns" {
  description = "ARN of each secret, by name."
  type        = map(string)
}

variable "administrator_secret_arn" {
  description = "The secret of the database's administrator."
  type        = string
}

variable "kms_key_arn" {
  type = string
}

variable "bucket_arn" {
  type = string
}

variable "log_group_arns" {
  type = map(string)
}

variable "file_system_arn" {
  description = "The file system of the broker; null with eks."
  type        = string
}
