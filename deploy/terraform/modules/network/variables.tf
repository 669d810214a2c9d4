variable "name" {
  description = "Prefix of the names of all resources, for example reelhaul-staging."
  type        = string
}

variable "cidr" {
  description = "The address range of the VPC, a /16."
  type        = string

  validation {
    condition     = can(cidrhost(var.cidr, 0)) && endswith(var.cidr, "/16")
    error_message = "cidr must be an IPv4 range of the size /16, for example 10.20.0.0/16."
  }
}

variable "zones" {
  description = "Availability zones, two to four."
  type        = list(string)

  validation {
    condition     = length(var.zones) >= 2 && length(var.zones) <= 4
    error_message = "zones must name two to four availability zones: the database and the load balancer need two."
  }
}

variable "nat_gateways" {
  description = "Number of NAT gateways: 1, or one for each zone, so that the failure of a zone leaves the others a way out."
  type        = number

  validation {
    condition     = var.nat_gateways == 1 || var.nat_gateways == length(var.zones)
    error_message = "nat_gateways must be 1 or the number of zones."
  }
}

variable "flow_log_group_arn" {
  description = "ARN of the log group that records which connections were accepted and rejected."
  type        = string
}

variable "flow_log_role_arn" {
  description = "ARN of the role that writes into it."
  type        = string
}
