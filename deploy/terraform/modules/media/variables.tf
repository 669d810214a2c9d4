variable "name" {
  description = "Prefix of the names of all resources."
  type        = string
}

variable "kms_key_arn" {
  type = string
}

variable "link_public_key" {
  description = "PEM of the public key whose private key signs links (the secret link_key)."
  type        = string

  validation {
    condition     = startswith(trimspace(var.link_public_key), "-----BEGIN PUBLIC KEY-----")
    error_message = "link_public_key must be the PEM of a public key: openssl rsa -in link.key -pubout."
  }
}

variable "deleted_days" {
  description = "Days for which the bytes of deleted artifacts can be restored: at least as many as backups of the database are kept."
  type        = number
}

variable "force_destroy" {
  description = "Whether destroying the environment deletes the artifacts."
  type        = bool
}
