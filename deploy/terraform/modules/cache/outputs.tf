output "url" {
  description = "REELHAUL_RATE_LIMIT_URL."
  value       = "rediss://${aws_elasticache_replication_group.this.primary_endpoint_address}:6379/0"
}

output "replication_group_id" {
  value = aws_elasticache_replication_group.this.replication_group_id
}
