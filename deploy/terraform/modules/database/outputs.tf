output "endpoint" {
  description = "host:port."
  value       = aws_db_instance.this.endpoint
}

output "identifier" {
  value = aws_db_instance.this.identifier
}

output "administrator_secret_arn" {
  description = "The secret that RDS keeps, with the keys username and password."
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}
