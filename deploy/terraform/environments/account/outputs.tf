output "state_bucket" {
  value = aws_s3_bucket.state.id
}

output "repository_urls" {
  description = "Where images are pushed."
  value       = module.registry.repository_urls
}
