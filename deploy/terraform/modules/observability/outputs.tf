output "log_group_names" {
  value = { for key, group in aws_cloudwatch_log_group.this : key => group.name }
}

output "log_group_arns" {
  value = { for key, group in aws_cloudwatch_log_group.this : key => group.arn }
}

output "flow_log_role_arn" {
  value = aws_iam_role.flow_logs.arn
}

output "access_log_bucket" {
  description = "The bucket of the load balancer's access logs, once it admits them."
  value       = aws_s3_bucket_policy.access.bucket
}

output "alarm_topic_arn" {
  value = aws_sns_topic.alarms.arn
}
