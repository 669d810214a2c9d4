# Staging: the same parts as production, smaller, in one NAT gateway, and without protection from deletion.

module "suite" {
  source = "../../modules/suite"

  name         = "reelhaul-staging"
  compute      = var.compute
  domain       = var.domain
  zone_id      = var.zone_id
  zones        = ["${var.region}a", "${var.region}b"]
  cidr         = "10.21.0.0/16"
  nat_gateways = 1

  images          = var.images
  link_public_key = file("${path.module}/link.pub.pem")
  secret_versions = var.secret_versions

  sizes = {
    gateway = { cpu = 256, memory = 512, min = 1, max = 2 }
    jobs    = { cpu = 512, memory = 1024, min = 1, max = 2 }
    storage = { cpu = 256, memory = 512, min = 1, max = 2 }
    fetcher = { cpu = 1024, memory = 4096, min = 1, max = 4 }
  }
  fetcher  = { slots = 2, disk = 50 }
  database = { instance_class = "db.t4g.small", storage_gigabytes = 20, multi_az = false, backup_days = 7 }
  cache    = { node_type = "cache.t4g.micro", nodes = 1 }

  cluster = {
    kubernetes_version = "1.34"
    access_ranges      = var.cluster_access_ranges
    administrator_arns = var.cluster_administrator_arns
    nodes = {
      services = { instance_types = ["t3.large"], disk = 40, min = 2, max = 4 }
      fetchers = { instance_types = ["m6i.large"], disk = 100, min = 1, max = 4 }
    }
  }

  trace_sample_ratio = 1
  log_days           = 30
  alarm_email        = var.alarm_email
  protected          = false
}
