# A whole environment: what staging and production have in common.

locals {
  ecs = var.compute == "ecs"
}

module "secrets" {
  source = "../secrets"

  name              = var.name
  database_endpoint = module.database.endpoint
  broker_address    = local.ecs ? "broker.${var.name}.internal:4222" : "nats:4222"
  versions          = var.secret_versions
  recovery_days     = var.protected ? 30 : 0
}

module "network" {
  source = "../network"

  name               = var.name
  cidr               = var.cidr
  zones              = var.zones
  nat_gateways       = var.nat_gateways
  flow_log_group_arn = module.observability.log_group_arns["network"]
  flow_log_role_arn  = module.observability.flow_log_role_arn
}

module "database" {
  source = "../database"

  name                = var.name
  subnet_ids          = module.network.subnet_ids["data"]
  security_group_id   = module.network.security_group_ids["database"]
  kms_key_arn         = module.secrets.kms_key_arn
  instance_class      = var.database.instance_class
  storage_gigabytes   = var.database.storage_gigabytes
  multi_az            = var.database.multi_az
  backup_days         = var.database.backup_days
  deletion_protection = var.protected
}

module "cache" {
  source = "../cache"

  name              = var.name
  subnet_ids        = module.network.subnet_ids["data"]
  security_group_id = module.network.security_group_ids["cache"]
  kms_key_arn       = module.secrets.kms_key_arn
  node_type         = var.cache.node_type
  nodes             = var.cache.nodes
}

module "media" {
  source = "../media"

  name            = var.name
  kms_key_arn     = module.secrets.kms_key_arn
  link_public_key = var.link_public_key
  # A day more: a restored database names nothing that has been deleted for good.
  deleted_days  = var.database.backup_days + 1
  force_destroy = !var.protected
}

module "edge" {
  source = "../edge"

  name                 = var.name
  domain               = var.domain
  zone_id              = var.zone_id
  requests_per_address = var.requests_per_address
  log_group_arn        = module.observability.log_group_arns["requests"]
}

module "observability" {
  source = "../observability"

  name                = var.name
  kms_key_arn         = module.secrets.kms_key_arn
  retention_days      = var.log_days
  compute             = var.compute
  alarm_email         = var.alarm_email
  database_identifier = module.database.identifier
  cache_id            = module.cache.replication_group_id
  load_balancer       = local.ecs ? module.ecs[0].load_balancer : null
  target_groups       = local.ecs ? module.ecs[0].target_groups : {}
  force_destroy       = !var.protected
}

module "iam" {
  source = "../iam"

  name                     = var.name
  compute                  = var.compute
  repository_prefix        = var.repository_prefix
  secret_arns              = module.secrets.secret_arns
  administrator_secret_arn = module.database.administrator_secret_arn
  kms_key_arn              = module.secrets.kms_key_arn
  bucket_arn               = module.media.bucket_arn
  log_group_arns           = module.observability.log_group_arns
  file_system_arn          = local.ecs ? module.ecs[0].file_system_arn : null
}

module "ecs" {
  source = "../ecs"
  count  = local.ecs ? 1 : 0

  name                     = var.name
  namespace                = "${var.name}.internal"
  images                   = var.images
  sizes                    = var.sizes
  fetcher                  = var.fetcher
  vpc_id                   = module.network.vpc_id
  subnet_ids               = module.network.subnet_ids
  public_range             = module.network.ranges["public"]
  security_group_ids       = module.network.security_group_ids
  execution_role_arns      = module.iam.execution_role_arns
  task_role_arns           = module.iam.task_role_arns
  secret_arns              = module.secrets.secret_arns
  administrator_secret_arn = module.database.administrator_secret_arn
  log_group_names          = module.observability.log_group_names
  kms_key_arn              = module.secrets.kms_key_arn
  media                    = module.media
  rate_limit_url           = module.cache.url
  edge                     = module.edge
  access_log_bucket        = module.observability.access_log_bucket
  trace_sample_ratio       = var.trace_sample_ratio
  deletion_protection      = var.protected
}

module "eks" {
  source = "../eks"
  count  = local.ecs ? 0 : 1

  name                 = var.name
  kubernetes_version   = var.cluster.kubernetes_version
  kubernetes_namespace = "reelhaul"
  subnet_ids           = module.network.subnet_ids
  vpc_id               = module.network.vpc_id
  security_group_ids   = module.network.security_group_ids
  kms_key_arn          = module.secrets.kms_key_arn
  access_ranges        = var.cluster.access_ranges
  administrator_arns   = var.cluster.administrator_arns
  nodes                = var.cluster.nodes
  task_role_arns       = module.iam.task_role_arns
}
