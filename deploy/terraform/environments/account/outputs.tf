output "state_bucket" {
  value = aws_s3_bucket.state.id
}

output "repository_urls" {
  description = "Where images are pushed."
  value       = module.registry.repository_urls
}

output "delivery_role_arn" {
  description = "AWS_ROLE of the workflow `deploy`; null without a repository."
  value       = one(aws_iam_role.delivery[*].arn)
}
