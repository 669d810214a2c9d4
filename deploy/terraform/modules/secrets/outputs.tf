output "kms_key_arn" {
  value = aws_kms_key.this.arn
}

output "secret_arns" {
  description = "ARN of each secret, by name. Nothing here contains a value."
  value       = { for name, secret in aws_secretsmanager_secret.this : name => secret.arn }
}
