variable "region" {
  description = "AWS region, for example eu-central-1."
  type        = string
}

variable "domain" {
  description = "The name by which clients reach the suite, for example media.example.org."
  type        = string
}

variable "zone_id" {
  description = "Id of the Route 53 zone that contains the name."
  type        = string
}

variable "compute" {
  description = "ecs (Fargate) or eks (Kubernetes, for deploy/k8s)."
  type        = string
  default     = "ecs"
}

variable "images" {
  description = "Images by digest, as docs/aws.md writes them into images.auto.tfvars.json. null: everything but the services."
  type        = object({ all = string, server = string, nats = string, collector = string })
  default     = null
}

variable "secret_versions" {
  description = "Version of each generated secret, for example { suite_token = 2 }: a higher number creates a new value."
  type        = map(number)
  default     = {}
}

variable "alarm_email" {
  description = "Address that receives alarms. Empty: nobody."
  type        = string
  default     = ""
}

variable "cluster_access_ranges" {
  description = "eks: address ranges from which the API of the cluster may be called through the internet."
  type        = list(string)
  default     = []
}

variable "cluster_administrator_arns" {
  description = "eks: IAM roles or users that administer the cluster."
  type        = list(string)
  default     = []
}
