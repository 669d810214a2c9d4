variable "name" {
  description = "Prefix of the names of all resources."
  type        = string
}

variable "namespace" {
  description = "Private DNS domain of the services, for example reelhaul.internal."
  type        = string
}

variable "images" {
  description = "Images by digest: all (fetchers), server (gateway, jobs, storage), nats, collector. null: no services yet."
  type = object({
    all       = string
    server    = string
    nats      = string
    collector = string
  })

  validation {
    condition     = var.images == null ? true : alltrue([for image in values(var.images) : can(regex("@sha256:[0-9a-f]{64}$", image))])
    error_message = "images must be named by digest (…@sha256:…): a tag may be another image at the next start of a task."
  }
}

variable "sizes" {
  description = "CPU units (1024 are one core), MiB of memory, and least and most replicas, of gateway, jobs, storage and fetcher."
  type        = map(object({ cpu = number, memory = number, min = number, max = number }))

  validation {
    condition     = length(setsubtract(["gateway", "jobs", "storage", "fetcher"], keys(var.sizes))) == 0
    error_message = "sizes must have gateway, jobs, storage and fetcher."
  }

  validation {
    condition     = alltrue([for size in values(var.sizes) : size.min >= 1 && size.max >= size.min])
    error_message = "Each service needs at least one replica, and max must not be below min. Fetchers too: without one there are no slots to compare the queue with."
  }
}

variable "fetcher" {
  description = "Concurrent downloads of a fetcher, and GiB of its disk (21 to 200)."
  type        = object({ slots = number, disk = number })
}

variable "vpc_id" {
  type = string
}

variable "subnet_ids" {
  description = "Ids of subnets by kind."
  type        = map(list(string))
}

variable "public_range" {
  description = "Address range of the public subnets, in which the load balancer is: the gateway believes its headers."
  type        = string
}

variable "security_group_ids" {
  type = map(string)
}

variable "execution_role_arns" {
  type = map(string)
}

variable "task_role_arns" {
  type = map(string)
}

variable "secret_arns" {
  type = map(string)
}

variable "administrator_secret_arn" {
  type = string
}

variable "log_group_names" {
  type = map(string)
}

variable "kms_key_arn" {
  type = string
}

variable "media" {
  description = "Outputs of modules/media."
  type        = object({ storage_url = string, link_url = string, link_key_pair_id = string })
}

variable "rate_limit_url" {
  type = string
}

variable "edge" {
  description = "Outputs of modules/edge."
  type        = object({ certificate_arn = string, web_acl_arn = string, domain = string, zone_id = string })
}

variable "access_log_bucket" {
  type = string
}

variable "trace_sample_ratio" {
  description = "Share of traces that are recorded, 0 to 1."
  type        = number
}

variable "deletion_protection" {
  type = bool
}
