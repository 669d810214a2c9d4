output "url" {
  value = module.suite.url
}

output "cluster" {
  value = module.suite.cluster
}

output "tasks" {
  description = "Input of `aws ecs run-task --cli-input-json` by task."
  value       = module.suite.tasks
}

output "database" {
  value = module.suite.database
}

output "bucket" {
  value = module.suite.bucket
}

output "media" {
  value = module.suite.media
}

output "rate_limit_url" {
  value = module.suite.rate_limit_url
}

output "certificate_arn" {
  value = module.suite.certificate_arn
}

output "web_acl_arn" {
  value = module.suite.web_acl_arn
}

output "secret_prefix" {
  value = module.suite.secret_prefix
}
