output "repository_urls" {
  description = "Address of each repository, by image."
  value       = { for image, repository in aws_ecr_repository.this : image => repository.repository_url }
}

output "repository_arns" {
  value = { for image, repository in aws_ecr_repository.this : image => repository.arn }
}
