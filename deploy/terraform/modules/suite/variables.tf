variable "name" {
  description = "Prefix of the names of all resources, for example reelhaul-staging."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,19}$", var.name)) && !endswith(var.name, "-")
    error_message = "name must be 2 to 20 small letters, digits and hyphens, and begin with a letter: names of load balancers and target groups have 32 characters at most."
  }
}

variable "compute" {
  description = "Where the services run: ecs (Fargate) or eks (Kubernetes, for deploy/k8s)."
  type        = string

  validation {
    condition     = contains(["ecs", "eks"], var.compute)
    error_message = "compute must be ecs or eks."
  }
}

variable "domain" {
  description = "The name by which clients reach the suite, for example media.example.org."
  type        = string
}

variable "zone_id" {
  description = "Id of the Route 53 zone that contains the name."
  type        = string
}

variable "zones" {
  description = "Availability zones, two to four."
  type        = list(string)
}

variable "cidr" {
  description = "The address range of the VPC, a /16."
  type        = string
  default     = "10.20.0.0/16"
}

variable "nat_gateways" {
  description = "1, or one for each zone."
  type        = number
}

variable "images" {
  description = "Images by digest (docs/aws.md). null: everything but the services."
  type        = object({ all = string, server = string, nats = string, collector = string })
  default     = null
}

variable "repository_prefix" {
  description = "Prefix of the repositories, as in environments/account."
  type        = string
  default     = "reelhaul"
}

variable "link_public_key" {
  description = "PEM of the public key of signed links."
  type        = string
}

variable "sizes" {
  description = "ecs: CPU units, MiB of memory, and least and most replicas of gateway, jobs, storage and fetcher."
  type        = map(object({ cpu = number, memory = number, min = number, max = number }))
}

variable "fetcher" {
  description = "ecs: concurrent downloads of a fetcher, and GiB of its disk (21 to 200)."
  type        = object({ slots = number, disk = number })
}

variable "database" {
  description = "Class of the instance, GB of its disk, a standby in another zone, days of backups."
  type        = object({ instance_class = string, storage_gigabytes = number, multi_az = bool, backup_days = number })
}

variable "cache" {
  description = "Class and number of nodes."
  type        = object({ node_type = string, nodes = number })
}

variable "cluster" {
  description = "eks: version, ranges and principals with access to the API, node groups services and fetchers."
  type = object({
    kubernetes_version = string
    access_ranges      = list(string)
    administrator_arns = list(string)
    nodes              = map(object({ instance_types = list(string), disk = number, min = number, max = number }))
  })
}

variable "secret_versions" {
  description = "Version of each generated secret; a higher number creates a new value."
  type        = map(number)
  default     = {}
}

variable "requests_per_address" {
  description = "Requests that one address may make in five minutes."
  type        = number
  default     = 6000
}

variable "trace_sample_ratio" {
  description = "Share of traces that are recorded, 0 to 1."
  type        = number
}

variable "log_days" {
  description = "Days that logs are kept."
  type        = number
}

variable "alarm_email" {
  description = "Address that receives alarms. Empty: nobody."
  type        = string
  default     = ""
}

variable "protected" {
  description = "Whether database, load balancer, secrets and buckets are protected from deletion: true for everything that is not thrown away."
  type        = bool
}
