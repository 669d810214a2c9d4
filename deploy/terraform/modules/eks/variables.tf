variable "name" {
  description = "Prefix of the names of all resources, and name of the cluster."
  type        = string
}

variable "kubernetes_version" {
  type = string
}

variable "kubernetes_namespace" {
  description = "The namespace of deploy/k8s."
  type        = string
}

variable "subnet_ids" {
  description = "Ids of subnets by kind."
  type        = map(list(string))
}

variable "vpc_id" {
  type = string
}

variable "security_group_ids" {
  type = map(string)
}

variable "kms_key_arn" {
  type = string
}

variable "access_ranges" {
  description = "Address ranges from which the API of the cluster may be called through the internet. Empty: from within the VPC alone."
  type        = list(string)

  validation {
    condition     = !contains(var.access_ranges, "0.0.0.0/0")
    error_message = "access_ranges must not be the whole internet."
  }
}

variable "administrator_arns" {
  description = "IAM roles or users that administer the cluster."
  type        = list(string)
}

variable "nodes" {
  description = "Node groups services and fetchers: instance types, GiB of disk, least and most nodes."
  type        = map(object({ instance_types = list(string), disk = number, min = number, max = number }))

  validation {
    condition     = toset(keys(var.nodes)) == toset(["services", "fetchers"])
    error_message = "nodes must have services and fetchers."
  }
}

variable "task_role_arns" {
  description = "Roles of modules/iam that pods get by their ServiceAccount."
  type        = map(string)
}
