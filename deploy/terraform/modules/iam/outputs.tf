output "execution_role_arns" {
  description = "Role that starts the tasks of a service (ecs)."
  value       = { for service, role in aws_iam_role.execution : service => role.arn }
}

output "task_role_arns" {
  description = "Role of the processes of a service; services without an entry have none."
  value       = { for service, role in aws_iam_role.task : service => role.arn }
}
