output "state_bucket" {
  value = aws_s3_bucket.state.id
}

output "repository_urls" {
  description = "Where images are pushed."
  value       = module.registry.repository_urls
}

output "delivery_role_arns" {
  description = "AWS_ROLE of the workflow `deploy`, by environment; empty without a repository."
  value       = { for environment, role in aws_iam_role.delivery : environment => role.arn }
}
