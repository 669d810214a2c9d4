# Production: two replicas of everything in three zones, a standby of the database, protection from deletion.

module "suite" {
  source = "../../modules/suite"

  name         = "reelhaul-production"
  compute      = var.compute
  domain       = var.domain
  zone_id      = var.zone_id
  zones        = ["${var.region}a", "${var.region}b", "${var.region}c"]
  cidr         = "10.20.0.0/16"
  nat_gateways = 3

  images          = var.images
  link_public_key = file("${path.module}/link.pub.pem")
  secret_versions = var.secret_versions

  sizes = {
    gateway = { cpu = 1024, memory = 2048, min = 2, max = 8 }
    jobs    = { cpu = 1024, memory = 2048, min = 2, max = 4 }
    storage = { cpu = 1024, memory = 2048, min = 2, max = 8 }
    fetcher = { cpu = 2048, memory = 8192, min = 2, max = 50 }
  }
  fetcher  = { slots = 8, disk = 200 }
  database = { instance_class = "db.m7g.large", storage_gigabytes = 100, multi_az = true, backup_days = 35 }
  cache    = { node_type = "cache.t4g.small", nodes = 2 }

  cluster = {
    kubernetes_version = "1.34"
    access_ranges      = var.cluster_access_ranges
    administrator_arns = var.cluster_administrator_arns
    nodes = {
      services = { instance_types = ["m6i.large"], disk = 60, min = 3, max = 9 }
      fetchers = { instance_types = ["m6i.xlarge"], disk = 300, min = 2, max = 30 }
    }
  }

  trace_sample_ratio = 0.05
  log_days           = 400
  alarm_email        = var.alarm_email
  protected          = true
}
