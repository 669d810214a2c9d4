variable "name" {
  description = "Prefix of the names of all resources."
  type        = string
}

variable "kms_key_arn" {
  type = string
}

variable "retention_days" {
  description = "Days that logs are kept."
  type        = number
}

variable "compute" {
  description = "ecs or eks: which alarms there are."
  type        = string
}

variable "alarm_email" {
  description = "Address that receives alarms; it must confirm the subscription once. Empty: nobody."
  type        = string
}

variable "database_identifier" {
  type = string
}

variable "cache_id" {
  type = string
}

variable "load_balancer" {
  description = "The suffix of the ARN of the load balancer, or null."
  type        = string
}

variable "target_groups" {
  description = "The suffix of the ARN of each target group."
  type        = map(string)
}

variable "force_destroy" {
  description = "Whether destroying the environment deletes the access logs."
  type        = bool
}
