variable "name" {
  description = "Prefix of the names of all resources."
  type        = string
}

variable "subnet_ids" {
  description = "Subnets without a route out."
  type        = list(string)
}

variable "security_group_id" {
  type = string
}

variable "kms_key_arn" {
  type = string
}

variable "instance_class" {
  description = "For example db.t4g.medium."
  type        = string
}

variable "storage_gigabytes" {
  description = "Initial size of the disk; it grows to five times as much by itself."
  type        = number
}

variable "multi_az" {
  description = "Whether a standby in another zone takes over when the instance fails."
  type        = bool
}

variable "backup_days" {
  description = "Days back to which the database can be restored, to any second."
  type        = number

  validation {
    condition     = var.backup_days >= 1 && var.backup_days <= 35
    error_message = "backup_days must be 1 to 35: RDS keeps no more, and 0 turns the restoration to a point in time off."
  }
}

variable "deletion_protection" {
  type = bool
}
