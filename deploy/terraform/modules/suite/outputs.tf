output "url" {
  value = "https://${var.domain}"
}

output "cluster" {
  description = "Name of the ECS or EKS cluster."
  value       = local.ecs ? module.ecs[0].cluster : module.eks[0].cluster
}

output "tasks" {
  description = "ecs: input of `aws ecs run-task --cli-input-json` for databases, migrate and first-key."
  value       = local.ecs ? module.ecs[0].tasks : {}
}

output "database" {
  description = "Identifier of the RDS instance."
  value       = module.database.identifier
}

output "bucket" {
  value = module.media.bucket
}

output "media" {
  description = "Settings of storage: its bucket, and CloudFront."
  value = {
    storage_url      = module.media.storage_url
    link_url         = module.media.link_url
    link_key_pair_id = module.media.link_key_pair_id
  }
}

output "rate_limit_url" {
  value = module.cache.url
}

output "certificate_arn" {
  value = module.edge.certificate_arn
}

output "web_acl_arn" {
  value = module.edge.web_acl_arn
}

output "secret_prefix" {
  description = "Secrets are named {prefix}/{name}."
  value       = var.name
}
